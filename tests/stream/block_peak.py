"""Print the most memory that reading each block of a folder or file takes: `python -m tests.stream.block_peak PATH`.

In a process of its own with one heap (`MALLOC_ARENA_MAX=1`): what a process has freed and kept before, and what each of
transformers' reading threads keeps in a heap of its own, comes to as much as a block.
"""

import sys
from pathlib import Path

import torch

from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.measure.peak import measure_peak
from qtoolkit.requests import ModelSource
from qtoolkit.stream.blocks import StreamedModel


def main(path: Path) -> None:
    """Read all blocks twice, and print the bytes of the second time."""
    streamed = StreamedModel(open_source(path, ModelSource()), device="cpu", dtype=torch.bfloat16)
    for _ in range(2):
        give_memory_back()
        with measure_peak() as meter:
            for index in range(len(streamed.blocks)):
                with streamed.block(index):
                    pass
    sys.stdout.write(f"{meter.report.peak_rss - meter.report.rss_before}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
