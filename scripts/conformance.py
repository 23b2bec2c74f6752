"""Compare what two versions of qtoolkit write: `python -m scripts.conformance --store FOLDER`, then `--check FOLDER`.

Runs every method with its main options on small models (`tests/conformance/cases.py`), and keeps or compares the hashes
of all files and the values of all records, exactly, and their sentences apart. On one machine, with one set of
packages, everything is the same from run to run. What tests/data/conformance holds was stored so; on another processor
codes that follow from sums of floats differ, so store first what the earlier commit writes, in a worktree of it.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

STORED = Path(__file__).parent.parent / "tests/data/conformance"


def make() -> dict[str, Any]:
    """All results: file name -> what it holds."""
    import torch

    from tests.conformance.cases import CASES
    from tests.conformance.results import Results, processor, same_surroundings

    torch.set_num_threads(1)
    made: dict[str, Any] = {"made on": processor()}
    # bitsandbytes logs a line for each product of int8.
    logging.disable(logging.INFO)
    with TemporaryDirectory() as name:
        root = Path(name)
        results, newer = Results(root / "older"), Results(root / "newer")
        with same_surroundings(root / "cache"):
            for case in CASES:
                print(case.name, flush=True)
                results.run(case)
            results.run_comparison()
            results.run_sizes()
        with same_surroundings(root / "newer-cache", bfloat16_is_fast=True):
            for case in CASES:
                if case.is_told_in_full and case.depends_on_sums:
                    print(case.name, "on a newer processor", flush=True)
                    newer.run(case)
    told = ("files", "report")
    fast = {case: {key: values[key] for key in told if key in values} for case, values in newer.values.items()}
    values = {**made, **results.values, "where products in bfloat16 are fast": fast}
    return {"values.json": values, "words.json": {"sentences": results.sentences.to_dict(), "texts": results.texts}}


def store(folder: Path) -> int:
    """Write all results."""
    from tests.conformance.values import dumped

    folder.mkdir(parents=True, exist_ok=True)
    for name, values in make().items():
        (folder / name).write_text(dumped(values), encoding="utf-8")
    return 0


def check(folder: Path) -> int:
    """Print what differs from results that were stored; 1 where a value does, and not where only words do."""
    from tests.conformance.values import differences, dumped

    code = 0
    for name, values in make().items():
        # As it is read back: JSON has no tuples.
        found = list(differences(json.loads((folder / name).read_bytes()), json.loads(dumped(values))))
        print(f"\n{name}: {len(found) or 'no'} differences", *found, sep="\n")
        code |= bool(found) and name == "values.json"
    return code


def main() -> int:
    """Store or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, metavar="FOLDER", help="write all results into a folder")
    parser.add_argument(
        "--check",
        type=Path,
        metavar="FOLDER",
        nargs="?",
        const=STORED,
        help="make all results, and print what differs from those in a folder, tests/data/conformance if none is named",
    )
    given = parser.parse_args()
    # Before torch reads it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.store is None and given.check is None:
        parser.error("give --store FOLDER or --check")
    return store(given.store) if given.store else check(given.check)


if __name__ == "__main__":
    sys.exit(main())
