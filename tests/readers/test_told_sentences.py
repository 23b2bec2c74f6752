"""What pages and lessons say of readers is what the contract says, and no other such sentence stands there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtoolkit.readers.programs import PROGRAMS
from qtoolkit.readers.table import COLUMNS, ENTRIES
from scripts.reader_pages import MADE

ROOT = Path(__file__).parent.parent.parent
_NAMED = re.compile("|".join(re.escape(one.title) for one in PROGRAMS if one.name != "qtoolkit"))
_CLAIMS = re.compile(r"\b(loads?|reads?|takes?|refuses?|opens?|run in|runs? (?:on|in)|not loaded|removed|supports?)\b")
_FORMATS = re.compile(r"GPTQ|AWQ|compressed-tensors|FP8|MLX|bitsandbytes|NF4|int8|\.gguf|embeddings|symmetric|desc_act")
# How pages call a format: of the contract, and what inputs are rounded to.
KINDS = {
    "GPTQ": ("gptq", ""),
    "packed": ("compressed-tensors", ""),
    "FP8": ("compressed-tensors", "float8"),
    "W8A8": ("compressed-tensors", "int8"),
    "MLX": ("mlx", ""),
    "NF4": ("bitsandbytes", ""),
    "gguf": ("gguf", ""),
}
# What stands beside the parts that are made: a piece of each sentence, and who loads what by it, or does not ("-").
TOLD: dict[str, dict[str, str]] = {
    "a server: vLLM, SGLang": {"GPTQ": "vllm sglang", "gguf": "llama.cpp ollama lm-studio"},
    "`%quantize`, `%qplan`, Tab, help": {"NF4": "transformers"},
    "Others load an NF4 or int8 result with plain transformers": {"NF4": "transformers transformers4"},
    "`BaseQuantizeConfig(bits=4": {"GPTQ": "transformers auto-gptq"},
    "auto-gptq 0.7.1 reads ours": {"GPTQ": "auto-gptq"},
    "NF4, FP4 and int8 results, those of mixtures aside": {"NF4": "transformers transformers4"},
    "absmax is written as compressed-tensors, which plain transformers reads": {"packed": "transformers transformers4"},
    "NF4 and FP4 store them as transformers 4 did": {"NF4": "transformers transformers4"},
    "peft trains LoRA on every result": {"GPTQ": "peft"},
    "is too old for peft": {},
    "That function turns checkpointing on for GPTQ and bitsandbytes alone": {
        "NF4": "transformers peft",
        "GPTQ": "peft",
    },
    "| [train an adapter](#train) | peft, any trainer": {"GPTQ": "peft"},
    "Pickled weights and models that bring their own code": {},
    "are written of these models; the others are refused": {"gguf": "llama.cpp"},
    "Windows of attention are computed by llama.cpp": {"gguf": "llama.cpp"},
    "Results are AutoGPTQ checkpoints": {"GPTQ": "auto-gptq gptqmodel vllm transformers transformers4"},
    "transformers needs the package compressed-tensors": {"packed": "transformers vllm"},
    '`format="mlx"` stores the same codes for Macs': {"MLX": "mlx-lm"},
    "MLX folders that mlx-lm quantized itself": {"MLX": "mlx-lm"},
    "It is read in sources; what was run": {"GPTQ": "vllm transformers", "packed": "vllm", "MLX": "mlx-lm -vllm"},
    "What NF4, FP4 and int8 save is read by plain transformers": {"NF4": "transformers"},
    "a checkpoint in AutoGPTQ's format": {"GPTQ": "gptqmodel vllm transformers"},
    "compressed-tensors is read by transformers and the package": {"packed": "transformers"},
    "The GPTQ folder is read by transformers here": {"GPTQ": "transformers auto-gptq gptqmodel vllm sglang"},
}


def texts() -> Iterator[str]:
    """Pages and lessons without code, tables and what is made."""
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        if file.name not in ("coverage.md", "figures.md", "serving.md"):
            yield re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        yield "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def found_sentences() -> set[str]:
    """Sentences in which a program does something with a format."""
    made = [make() for make in MADE.values()]
    found = set()
    for text in texts():
        others = text.replace(made[0], "").replace(made[1], "")
        for paragraph in re.split(r"\n\s*\n", others):
            parts = re.split(r"(?<=[.:;!?])\s+(?=[A-Z`*\[|])", " ".join(paragraph.split()))
            found |= {one for one in parts if all(word.search(one) for word in (_NAMED, _CLAIMS, _FORMATS))}
    return found


def test_no_page_says_more_of_readers_than_is_checked() -> None:
    unknown = [one for one in found_sentences() if not any(part in one for part in TOLD)]
    assert not unknown, "make it from the contract (`<!-- readers: ... -->`), or add it to TOLD with what it says"


def test_what_is_told_is_still_there() -> None:
    every = " ".join(" ".join(text.split()) for text in texts())
    assert [part for part in TOLD if part not in every] == []


@pytest.mark.parametrize("said", TOLD.values(), ids=TOLD)
def test_a_sentence_says_what_the_contract_says(said: dict[str, str]) -> None:
    loading = {(one.reader, one.format, one.input_type) for one in ENTRIES if not one.refused}
    for kind, readers in said.items():
        for reader in readers.split():
            assert ((reader.removeprefix("-"), *KINDS[kind]) in loading) is not reader.startswith("-"), (kind, reader)


def test_the_page_on_serving_lists_the_formats_of_the_contract() -> None:
    serving = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    words = {"GPTQ": "GPTQ", "compressed-tensors": "packed", "FP8": "FP8", "W8A8": "W8A8", "MLX": "MLX", "NF4": "NF4"}
    words |= {"`.gguf`": "gguf"}
    loading = {(one.reader, one.format, one.input_type) for one in ENTRIES if not one.refused}
    of_page = {column[:2] for column in COLUMNS}
    for program in PROGRAMS:
        rows = [line.split("|")[3] for line in serving.splitlines() if line.startswith(f"| {program.title} |")]
        told = {KINDS[kind] for row in rows for word, kind in words.items() if f" {word}" in row}
        known = {one[1:] for one in loading if one[0] == program.name} & of_page
        # Nobody expands a file of another program to serve it.
        expanded = {("gguf", "")} if program.title == "transformers" else set()
        assert not rows or told == known - expanded, program.name
