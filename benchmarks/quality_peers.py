"""Our GPTQ and GGUF beside gptqmodel, AutoRound and llama.cpp: the same samples and ruler, bytes of the whole file.

All calibrate on 64 x 512 tokens of the first half of the text (`--samples`), and are measured on the first 32 windows
of 1,024 tokens (`--windows`) of its second half against the model in bfloat16, with the weights that their files hold
in the plain model.
Each peer has an environment of its own, of which only the Python is named here:

    python3.11 -m venv ~/gptqmodel && ~/gptqmodel/bin/pip install -r constraints/gptqmodel.txt
    python3.11 -m venv ~/autoround && ~/autoround/bin/pip install auto-round==0.16.1 transformers==5.23.0
    npm pack @node-llama-cpp/linux-x64@3.21.1 && tar xzf node-llama-cpp-linux-x64-*.tgz -C ~/llama-cpp

    python benchmarks/quality_peers.py --text valid.txt --gptqmodel ~/gptqmodel/bin/python \
        --autoround ~/autoround/bin/python --llama-cpp ~/llama-cpp/package/bins/linux-x64 [--slow] [--only PATTERN]

What is done is kept in `--work`, and not done again. llama.cpp's importance matrix is computed here
(`gguf_files.importance`); what it lacks of the model, names and tokenizer, comes from the wheel's `.gguf` file, or from
that of another model (`--pattern`). `target_size=Q4_K_M` of ours is the size of llama.cpp's file of that type.
`--shuffled` takes the model of `shuffled.py`, whose weights lie on no `.gguf` file's grid: without it llama.cpp's types
store those of the wheel's SmolLM2, which were in Q4_1, almost without loss. `--slow` adds what takes hours on two
cores, such as AutoRound's 200 iterations.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gguf_files import importance, read_dense, types_of, write_float32
from ruler import WINDOW, WINDOWS, Ruler, calibration_tokens, dense_weights, difference, evaluation_windows
from shuffled import write_shuffled
from transformers import AutoTokenizer

import qtoolkit as qt

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "build" / "models" / "SmolLM2-135M-Instruct"
ADDITIONS_OFF = {"full_range": False, "qep_alpha": 0.0, "refine": 0, "token_weights": False}
BEST = {"full_range": True, "qep_alpha": 0.5, "refine": 3, "token_weights": True}
SMALL_FILE = {"format": "compressed-tensors", "embeddings": 8}


@dataclass(frozen=True)
class Recipe:
    """Hold what one program is asked for.

    Attributes:
        program: "qtoolkit", "gptqmodel", "autoround" or "llama.cpp".
        bits: the row's place in the table: the size of the codes of most layers.
        options: its own options; the target size of ours names a type of llama.cpp, whose file is that large.
        slow: left out unless asked for.
    """

    program: str
    bits: int
    options: dict[str, Any]
    slow: bool = False

    @property
    def name(self) -> str:
        """Return its name in the table, and that of its files."""
        shown = [f"{key}={value}" for key, value in self.options.items() if key != "bits"]
        return f"{self.program} {self.bits} bits, {', '.join(shown) or 'defaults'}"

    @property
    def writes_gguf(self) -> bool:
        """Check whether its result is a `.gguf` file."""
        return any(name in self.options for name in ("ftype", "quant_type", "target_size"))


def recipes() -> Iterator[Recipe]:
    """Yield all recipes, those of peers first."""
    for kind, bits in {"Q5_K_M": 5, "Q4_K_M": 4, "Q4_0": 4, "IQ4_XS": 4, "IQ4_NL": 4, "Q3_K_M": 3}.items():
        yield Recipe("llama.cpp", bits, {"ftype": kind})
        yield Recipe("qtoolkit", bits, {"quant_type": kind})
        yield Recipe("qtoolkit", bits, {"target_size": kind})
        yield Recipe("qtoolkit", bits, {"target_size": kind, "solve": False})
    for bits in (4, 3):
        for group_size in (64, 128):
            common = {"bits": bits, "group_size": group_size}
            yield Recipe("gptqmodel", bits, common)
            yield Recipe("gptqmodel", bits, common | {"mse": 2.4})
            yield Recipe("gptqmodel", bits, common | {"mse": 2.4, "foem": {}}, slow=group_size == 128)
            yield Recipe("gptqmodel", bits, common | {"mse": 2.4, "gptaq": {}}, slow=True)
            yield Recipe("autoround", bits, common | {"iters": 0})
            yield Recipe("autoround", bits, common | {"iters": 200}, slow=True)
            yield Recipe("qtoolkit", bits, common | ADDITIONS_OFF, slow=group_size == 128)
            yield Recipe("qtoolkit", bits, common)
            yield Recipe("qtoolkit", bits, common | BEST, slow=group_size == 128)
            yield Recipe("qtoolkit", bits, common | BEST | SMALL_FILE, slow=group_size == 128)
    # What is as large as llama.cpp's files of this model, whose rows of 576 its types of 256 cannot hold.
    yield Recipe("qtoolkit", 4, {"bits": 4, "group_size": 32} | BEST | SMALL_FILE)
    yield Recipe("qtoolkit", 5, {"bits": 5, "group_size": 64} | BEST | SMALL_FILE)
    yield Recipe("qtoolkit", 5, {"bits": 5, "group_size": 32} | BEST | SMALL_FILE)


class Field:
    """Run recipes and measure what they wrote.

    Args:
        arguments: the command line's.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.work: Path = arguments.work
        self.work.mkdir(parents=True, exist_ok=True)
        first, second = self._halves(arguments.text)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        self.calibration = first
        self.tokens = calibration_tokens(tokenizer, first, num_samples=arguments.samples)
        self.tokens_file = self.work / "tokens.json"
        samples = json.dumps(self.tokens.tolist())
        if self.tokens_file.exists() and self.tokens_file.read_text() != samples:
            sys.exit(f"{self.work} holds results of another text or model: name another folder as --work")
        self.tokens_file.write_text(samples)
        self.ruler = Ruler(arguments.model, evaluation_windows(tokenizer, second, windows=arguments.windows), self.work)

    def run(self, recipe: Recipe) -> dict[str, Any]:
        """Return the figures of a recipe: stored ones, or after quantizing and measuring."""
        name = re.sub(r"[^\w.-]+", "-", recipe.name)
        stored = self.work / f"{name}.json"
        if stored.exists():
            found: dict[str, Any] = json.loads(stored.read_text())
            return found
        result = self.work / f"{name}{'.gguf' if recipe.program == 'llama.cpp' else ''}"
        written = self.work / f"{name}.took.json"
        if not written.exists():
            written.write_text(json.dumps(self._quantize(recipe, result)))
        took = json.loads(written.read_text())
        figures = self.ruler.measure(self._weights(recipe, result))
        files = [result] if result.is_file() else [*result.rglob("*.safetensors"), *result.glob("*.gguf")]
        figures |= took | {"bytes": sum(file.stat().st_size for file in files)}
        if recipe.writes_gguf:
            figures["types"] = types_of(files[0])
        stored.write_text(json.dumps(figures))
        return figures

    def _quantize(self, recipe: Recipe, result: Path) -> dict[str, float]:
        """Let a program quantize in a process of its own; its seconds without imports, and its peak with them."""
        options = dict(recipe.options)
        arguments = [str(self.arguments.model), str(result), str(self.tokens_file)]
        if recipe.program == "llama.cpp":
            base, imatrix = self._llama_cpp_inputs()
            arguments = [str(self.arguments.llama_cpp), str(base), str(result), str(imatrix)]
        elif recipe.program == "qtoolkit":
            options |= {"calibration": str(self.calibration), "num_samples": self.arguments.samples, "seq_len": 512}
            if "target_size" in options:
                options["target_size"] = self._bytes_of_llama_cpp(recipe.bits, options["target_size"])
        script = ROOT / "benchmarks" / "peers" / f"write_{recipe.program.replace('.', '_')}.py"
        python = getattr(self.arguments, recipe.program, None) or sys.executable
        command = [str(python), str(script), *arguments, json.dumps(options)]
        environment = os.environ | {"TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT)}
        if recipe.program != "qtoolkit":
            environment.pop("PYTHONPATH")
        if recipe.program == "gptqmodel":
            environment["GPTQMODEL_CPU_WORKERS"] = "2"  # 7.7 does not start with the one that it takes on two cores
        # Some leave logs where they run.
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=self.work)
        line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
        if done.returncode or line is None:
            raise RuntimeError(f"{recipe.name} failed:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
        took: dict[str, float] = json.loads(line.removeprefix("RESULT "))
        return took

    def _bytes_of_llama_cpp(self, bits: int, ftype: str) -> int:
        """Return the size of llama.cpp's file of a type, which is made where it is missing."""
        if self.arguments.llama_cpp is None:
            raise RuntimeError(f"{ftype} is the size of a file of llama.cpp's: name its folder as --llama-cpp")
        found: int = self.run(Recipe("llama.cpp", bits, {"ftype": ftype}))["bytes"]
        return found

    def _weights(self, recipe: Recipe, result: Path) -> dict[str, torch.Tensor]:
        if recipe.writes_gguf:
            return read_dense(self.ruler.model, result if result.is_file() else next(result.glob("*.gguf")))
        # AutoRound makes a folder within the one that it is given.
        folder = result if (result / "config.json").exists() else next(result.glob("*/config.json")).parent
        loaded: Any = qt.load(folder, device="cpu")
        return dense_weights(loaded.model)

    def _llama_cpp_inputs(self) -> tuple[Path, Path]:
        """Return the model in float32 as a `.gguf` file, and its importance matrix; made once."""
        base, imatrix = self.work / "base.gguf", self.work / "imatrix.npz"
        if not imatrix.exists():
            write_float32(self.ruler.model, self.arguments.pattern, base)
            # numpy's stubs take each keyword for an option of its own.
            np.savez(imatrix, **importance(self.ruler.model, self.tokens))  # type: ignore[arg-type]
        return base, imatrix

    def _halves(self, text: Path) -> tuple[Path, Path]:
        """Split a text at the first line's end after its middle, into two files."""
        whole = text.read_text(encoding="utf-8")
        cut = whole.index("\n", len(whole) // 2) + 1
        first, second = self.work / "first.txt", self.work / "second.txt"
        first.write_text(whole[:cut], encoding="utf-8")
        second.write_text(whole[cut:], encoding="utf-8")
        return first, second


def table(rows: list[tuple[Recipe, dict[str, Any]]]) -> str:
    """Return the rows as a Markdown table, by bytes."""
    lines = [
        "| program and options | file | KL divergence | 99.9 % | perplexity of bf16's | same top | seconds | peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for recipe, row in sorted(rows, key=lambda pair: pair[1]["bytes"]):
        (kl, kl_error), (ratio, ratio_error) = row["kl"], row["perplexity_ratio"]
        types = ", ".join(f"{count} {kind}" for kind, count in row.get("types", {}).items())
        name = f"{recipe.name} ({types})" if types else recipe.name
        lines.append(
            f"| {name} | {row['bytes'] / 1e6:.1f} MB | {kl:.4f} ± {kl_error:.4f} "
            f"| {row['p999'][0]:.2f} ± {row['p999'][1]:.2f} | {ratio:.4f} ± {ratio_error:.4f} "
            f"| {100 * row['same_top'][0]:.1f} % | {row['seconds']:.0f} | {row['peak'] / 1e6:.0f} MB |"
        )
    return "\n".join(lines)


def verdicts(rows: list[tuple[Recipe, dict[str, Any]]]) -> Iterator[str]:
    """Yield for each peer the least KL divergence of ours in no more bytes, and the error of the difference."""
    ours = [pair for pair in rows if pair[0].program == "qtoolkit"]
    for recipe, row in rows:
        fitting = [pair for pair in ours if pair[1]["bytes"] <= row["bytes"]]
        if recipe.program == "qtoolkit" or not fitting:
            continue
        best, figures = min(fitting, key=lambda pair: pair[1]["kl"][0])
        theirs, least = row["kl"][0], figures["kl"][0]
        gap = difference(figures["kl_by_window"], row["kl_by_window"])
        yield (
            f"- {recipe.name}: {theirs:.4f}; in no more bytes {least:.4f} ({least / theirs:.2f} of it, "
            f"{gap.value:+.4f} ± {gap.error:.4f}), {best.name}"
        )


def main() -> None:
    """Run what can be run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--pattern", type=Path, help="a .gguf file of the same model; the wheel's SmolLM2 unless given")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "quality-peers")
    parser.add_argument("--gptqmodel", type=Path, help="its environment's python")
    parser.add_argument("--autoround", type=Path, help="its environment's python")
    parser.add_argument("--llama-cpp", type=Path, help="a folder with libllama.*.so")
    parser.add_argument("--shuffled", action="store_true", help="the same model with inputs of layers in random order")
    parser.add_argument("--samples", type=int, default=64, help="of 512 tokens that all calibrate on")
    parser.add_argument("--windows", type=int, default=WINDOWS, help=f"of {WINDOW} tokens that are measured")
    parser.add_argument("--slow", action="store_true", help="also what takes hours")
    parser.add_argument("--only", default="", help="a regular expression that names must match")
    arguments = parser.parse_args()
    for name in ("text", "model", "work", "pattern", "gptqmodel", "autoround", "llama_cpp"):
        if getattr(arguments, name) is not None:
            # Not resolved: an environment's python is a link, and finds its packages beside it.
            setattr(arguments, name, getattr(arguments, name).expanduser().absolute())
    if arguments.pattern is None:
        sys.path.append(str(ROOT))
        from tests.sample_models import smollm2_gguf

        arguments.pattern = smollm2_gguf()
    if arguments.shuffled:
        shuffled = arguments.work / "model"
        if not shuffled.exists():
            write_shuffled(arguments.model, shuffled)
        arguments.model = shuffled
    given = {"qtoolkit": True, "gptqmodel": arguments.gptqmodel, "autoround": arguments.autoround}
    given["llama.cpp"] = arguments.llama_cpp
    field = Field(arguments)
    rows = []
    for recipe in recipes():
        if (
            not given[recipe.program]
            or (recipe.slow and not arguments.slow)
            or not re.search(arguments.only, recipe.name)
        ):
            continue
        try:
            rows.append((recipe, field.run(recipe)))
        except Exception as error:  # noqa: BLE001  # one program that fails is a line of the report
            print(f"- {recipe.name} failed: {error}", file=sys.stderr, flush=True)
            continue
        print(f"{recipe.name}: KL {rows[-1][1]['kl'][0]:.4f}", file=sys.stderr, flush=True)
    print(
        f"{arguments.model}, torch {torch.__version__}, transformers {transformers.__version__}, qtoolkit "
        f"{qt.__version__}; gptqmodel 7.7.0, AutoRound 0.16.1, llama.cpp v0.4.0; {platform.machine()}, "
        f"{os.cpu_count()} cores\n\n{table(rows)}\n"
    )
    print("\n".join(verdicts(rows)))


if __name__ == "__main__":
    main()
