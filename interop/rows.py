"""Tell what of the reader contract no checkpoint has shown here: `rows.py FOLDER ...`, after all readers.

A row is shown by a checkpoint that its program loads, and each of its limits by one that breaks that limit alone and is
not loaded. A row that says that nothing is loaded is shown by one that is not.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from common import claims_of, written
from seen import seen_in

from qtoolkit.readers import Stored
from qtoolkit.readers.entry import Entry
from qtoolkit.readers.matrices import Matrix
from qtoolkit.readers.stored import W4A8
from qtoolkit.readers.table import ENTRIES

# The programs that are run here: SGLang wants a GPU, Ollama and LM Studio are no packages.
RUN = ("transformers", "transformers4", "vllm", "gptqmodel", "auto-gptq", "mlx-lm")
# What they would need, or where else it is shown: by format and reader.
ELSEWHERE = {
    ("fp8", "transformers4"): "a GPU",
    ("fp8", "vllm"): "a GPU",
    ("auto-round", "transformers"): "the package auto-round",
    ("auto-round", "transformers4"): "the package auto-round",
    **{("mxfp4", name): "a GPU" for name in ("transformers", "transformers4", "vllm")},
    ("mxfp4", "mlx-lm"): "codes of gpt-oss, which nothing here writes; tests/readers/test_foreign_float8.py",
    **{
        ("modelopt", name): "codes of NVIDIA's Model Optimizer, which nothing here writes"
        for name in ("vllm", "mlx-lm")
    },
    **{("fbgemm_fp8", name): "a GPU" for name in ("transformers", "transformers4", "vllm")},
    ("awq", "transformers4"): "the package autoawq, which is given up",
    ("gguf", "transformers"): "tests/formats/gguf",
    ("gguf", "transformers4"): "tests/formats/gguf",
    ("gguf", "vllm"): "a .gguf file in place of a folder",
}
Cell = tuple[str, str, str, str]  # reader, format, type of inputs, and a limit's field, "loads" or "refused"
# Limits that no file can show: mlx-lm finds bits and groups by the shapes, whatever a config says. vLLM ends at experts
# of integers where it looks for a kernel, before their names, and has none for a processor; of FP8 it is shown.
UNSHOWN: tuple[Cell, ...] = (
    ("mlx-lm", "mlx", "", "bits"),
    ("mlx-lm", "mlx", "", "group_sizes"),
    ("vllm", "gptq", "", "split_experts"),
    ("vllm", "compressed-tensors", "", "split_experts"),
    ("vllm", "compressed-tensors", "int8", "split_experts"),
    # Of floats of 4 bits it has kernels for GPUs alone, and looks for one before the names.
    ("vllm", "compressed-tensors", "float4", "loads"),
    ("vllm", "compressed-tensors", "float4", "unlike_units"),
    *(("vllm", "compressed-tensors", W4A8, what) for what in ("loads", "sym", "unlike_units")),
    # Each model that breaks it has experts in int8, which it does not load either.
    ("transformers", "compressed-tensors", "int8", "split_experts"),
    # Of towers, which these scripts do not look at: tests/models/test_first_values.py.
    ("transformers", "compressed-tensors", "", "layers_given_values"),
    # Of DeepSeek's classes; that others are refused is shown.
    ("mlx-lm", "fp8", "", "loads"),
)


def cells_of(entry: Entry) -> Iterator[Cell]:
    """All that a row says."""
    said = ["refused"] if entry.refused else ["loads", *dict.fromkeys(limit.field for limit in entry.limits)]
    for what in said:
        yield entry.reader, entry.format, entry.input_type, what


def stored_of(path: Path) -> Stored:
    """How a checkpoint is stored."""
    values = claims_of(path)["stored"]
    matrices = tuple(Matrix(name, tuple(outputs), inputs) for name, outputs, inputs in values.pop("matrices"))
    stored = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Stored(**stored, matrices=matrices)


def shown_by(path: Path) -> Iterator[Cell]:
    """What a checkpoint shows by what readers did with it."""
    stored, seen = stored_of(path), seen_in(path)
    for entry in ENTRIES:
        loads = seen.get(entry.reader)
        if loads is None or (entry.format, entry.input_type) != (stored.format, stored.input_type):
            continue
        broken = {limit.field for limit in entry.limits if limit.broken_by(stored)}
        whats = {"loads"} if loads else {"refused"} if entry.refused else broken
        if len(whats) == 1:
            yield entry.reader, entry.format, entry.input_type, *whats


def main(folders: list[str]) -> str:
    """Print how much is shown; returns what is not, empty if nothing is missing."""
    paths = [path for folder in folders for path in written(Path(folder))]
    shown = {cell for path in paths for cell in shown_by(path)}
    rows = [entry for entry in ENTRIES if entry.reader in RUN and (entry.format, entry.reader) not in ELSEWHERE]
    every = [cell for entry in rows for cell in cells_of(entry)]
    if gone := set(UNSHOWN) - set(every):
        return f"the contract no longer says these, which UNSHOWN has: {sorted(gone)}"
    cells = [cell for cell in every if cell not in UNSHOWN]
    missing = [cell for cell in cells if cell not in shown]
    print(f"{len(paths)} checkpoints show {len(cells) - len(missing)} of {len(cells)} statements of {len(rows)} rows")
    return "\n".join(f"not shown: {' '.join(filter(None, cell))}" for cell in missing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
