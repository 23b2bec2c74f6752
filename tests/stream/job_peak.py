"""Print the most memory that quantizing each source takes: `python -m tests.stream.job_peak OUTPUT SOURCE ...`.

In a process of its own, as `tests.stream.block_peak`: what other tests have freed and kept comes to as much as a block.
"""

import sys
from pathlib import Path

import qtoolkit as qt
from qtoolkit.measure.malloc import give_memory_back


def main(output: Path, sources: list[Path]) -> None:
    """Quantize each source twice, and print the bytes of the second time: nothing is imported then."""
    for source in sources:
        for _ in range(2):
            give_memory_back()
            peak = qt.quantize(source, qt.AbsMax(), device="cpu", output=output, overwrite=True).memory.peak
        assert peak is not None
        sys.stdout.write(f"{peak.peak_rss - peak.rss_before}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(source) for source in sys.argv[2:]])
