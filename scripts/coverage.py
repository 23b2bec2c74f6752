"""Quantize a small random model of every type that transformers knows by every method: `make coverage`.

`python -m scripts.coverage` prints a line for each type, writes what it found into build/coverage, and fails where a
cell is worse than in docs/coverage.json; `--store` makes that and docs/coverage.md anew. `--types llama,gpt2` and
`--methods gptq` run a part, and leave the rest as it is stored.

A type has a process of its own, forked from one that has imported everything, with a limit of its processor time: what
ends it is that cell's verdict, and the next cells get another process.
"""

import argparse
import gc
import importlib
import json
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.coverage_cells import BUILT, METHODS, Cell, cells_of
from scripts.coverage_table import page, worse
from scripts.small_models import causal_types, multimodal_types

ROOT = Path(__file__).parent.parent
STORED, PAGE, FOUND = ROOT / "docs/coverage.json", ROOT / "docs/coverage.md", ROOT / "build/coverage/found.json"
# Seconds of processor time for all cells of a type, ten times what most take, and bytes of address space.
MAX_SECONDS, MAX_BYTES = 120, 12 << 30
Cells = dict[str, Cell]


def cells_apart(model_type: str, methods: Sequence[str]) -> Cells:
    """Return the cells of a type, by method, from processes of their own; `BUILT` tells whether the model was built."""
    cells: Cells = {}
    wanted = [BUILT, *methods]
    while left := [method for method in wanted if method not in cells]:
        ended = _run_forked(model_type, [method for method in left if method != BUILT], cells)
        if cells.get(BUILT, Cell("done")).verdict != "done":
            break
        started = next((method for method in wanted if method not in cells), None)
        if started is not None:
            cells[started] = Cell("crash", reason=f"its process ended: {ended}")
    return {method: cells[method] for method in wanted if method in cells}


def _run_forked(model_type: str, methods: Sequence[str], cells: Cells) -> str:
    """Add the cells that a forked process finds; return how it ended."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _become_limited()
        with os.fdopen(writing, "w") as found:
            for method, cell in cells_of(model_type, methods):
                found.write(json.dumps([method, asdict(cell)]) + "\n")
                found.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as found:
        for line in found:
            method, values = json.loads(line)
            cells.setdefault(method, Cell(**values))
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _become_limited() -> None:
    """Limit this process, and keep what libraries print out of the table; its errors go to build/coverage."""
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    errors = os.open(FOUND.parent / "errors.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, sys.stdout.fileno())
    os.dup2(errors, sys.stderr.fileno())


def read(file: Path) -> dict[str, Cells]:
    """Read the cells of all types; none where there is no file."""
    if not file.exists():
        return {}
    values: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return {name: {method: Cell(**cell) for method, cell in cells.items()} for name, cells in values.items()}


def write(file: Path, table: dict[str, Cells]) -> None:
    """Write the cells of all types, a line for each cell, without what is as always."""
    file.parent.mkdir(parents=True, exist_ok=True)
    types = []
    for name, cells in sorted(table.items()):
        lines = [
            f"  {json.dumps(method)}: {json.dumps(_told(cell), ensure_ascii=False)}" for method, cell in cells.items()
        ]
        types.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    file.write_text("{\n" + ",\n".join(types) + "\n}\n", encoding="utf-8")


def _told(cell: Cell) -> dict[str, Any]:
    return {
        key: value for key, value in asdict(cell).items() if value != getattr(Cell("done"), key) or key == "verdict"
    }


def run(types: Sequence[str], methods: Sequence[str], stored: dict[str, Cells]) -> Iterator[tuple[str, Cells]]:
    """Yield each type with its cells: those of these methods anew, the others as they are stored."""
    for name in types:
        anew = cells_apart(name, methods)
        kept = {method: cell for method, cell in stored.get(name, {}).items() if method not in (BUILT, *methods)}
        cells = anew if anew[BUILT].verdict != "done" else {**kept, **anew}
        yield name, {method: cells[method] for method in (BUILT, *METHODS) if method in cells}


def _import_all() -> None:
    """Import what each type's process needs, once."""
    for name in (
        "bitsandbytes",
        "accelerate",
        "transformers.generation",
        "qtoolkit.jobs.quantizing",
        "qtoolkit.jobs.checkpoint_loading",
    ):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def main() -> int:
    """Run the cells that are asked for; 1 where one is worse than it is stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="store_true", help="write docs/coverage.json and docs/coverage.md")
    parser.add_argument("--types", default="", help="names of types with commas between; all if none is named")
    parser.add_argument("--methods", default="", help=f"of {', '.join(METHODS)}; all if none is named")
    parser.add_argument(
        "--found", type=Path, default=FOUND, help="where to write what is found, of a run beside another"
    )
    given = parser.parse_args()
    types = given.types.split(",") if given.types else [*causal_types(), *multimodal_types()]
    methods = given.methods.split(",") if given.methods else list(METHODS)
    _import_all()
    stored = read(STORED)
    found = dict(stored)
    problems: list[str] = []
    for name, cells in run(types, methods, stored):
        print(name, "; ".join(f"{method} {cell}" for method, cell in cells.items()), flush=True)
        problems += worse(name, stored.get(name, {}), cells)
        found[name] = cells
        write(given.found, found)
        if given.store:
            write(STORED, found)
            PAGE.write_text(page(found), encoding="utf-8")
    print(*problems, sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    # Before torch reads it; torch, forked, waits for ever for threads of its own.
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
