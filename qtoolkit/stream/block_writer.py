"""Write finished blocks into a journal: at once, or while the next block runs."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.stream.journal import DoneBlock, Journal

# Writes tensors and facts of a block, and returns what gives the stored block.
WriteBlock = Callable[[int, Mapping[str, StoredTensor | torch.Tensor], Mapping[str, Any]], Callable[[], DoneBlock]]


def given(done: DoneBlock) -> Callable[[], DoneBlock]:
    """Return what gives a block that is stored already."""
    return lambda: done


@contextmanager
def block_writer(journal: Journal, *, behind: bool) -> Iterator[WriteBlock]:
    """Return what writes blocks, for the time of a `with` block, which ends when all are written.

    Args:
        journal: stores them.
        behind: whether a thread packs, hashes and writes a block while the next one runs: on a GPU, which waits for the
            processor then. One block waits at most; an error of a block is raised when the next one is written, or when
            the block is asked for.
    """
    if not behind:

        def write_now(
            index: int, tensors: Mapping[str, StoredTensor | torch.Tensor], facts: Mapping[str, Any]
        ) -> Callable[[], DoneBlock]:
            return given(journal.write(index, tensors, facts))

        yield write_now
        return
    with ThreadPoolExecutor(1, "write-block") as executor:
        last: Future[DoneBlock] | None = None

        def write_behind(
            index: int, tensors: Mapping[str, StoredTensor | torch.Tensor], facts: Mapping[str, Any]
        ) -> Callable[[], DoneBlock]:
            nonlocal last
            if last is not None:
                last.result()
            last = executor.submit(journal.write, index, tensors, facts)
            return last.result

        yield write_behind
