"""Keep tensors on the disk in a file that has no name, so that nothing is left of it even if the process is killed."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from qtoolkit.errors import DiskFullError, oneline
from qtoolkit.measure.disk import free_disk
from qtoolkit.units import format_bytes


class StagedTensors:
    """Keep tensors in one temporary file, of which the last one is taken off first; implements `Stack`.

    On Linux and macOS the file has no name in its folder; Windows removes it when it is closed. What was taken off is
    cut off: the file shrinks. Only the tensor in use is in memory; the system may cache others while it has room.

    Args:
        folder: on the disk that it is written to; None for the system's folder of temporary files.
        size: bytes that it will grow to.

    Raises:
        DiskFullError: the disk has less room than that.
    """

    def __init__(self, folder: Path | None, size: int) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        free = free_disk(self._folder)
        if size > free:
            raise self._full(f"{format_bytes(size)} of {format_bytes(free)} free")
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  # closed by `__exit__`
        # Of each tensor: where it begins, its shape and type.
        self._entries: list[tuple[int, torch.Size, torch.dtype]] = []
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing writes what is buffered, for which a full disk has no room.
        with suppress(OSError):
            self._file.close()

    def append(self, tensor: torch.Tensor) -> None:
        """Write a tensor at the end.

        Raises:
            DiskFullError: the disk is full, or the file larger than allowed.
        """
        own = tensor.detach().cpu().contiguous()
        try:
            self._file.seek(self._end)
            self._file.write(_bytes_of(own))
            self._file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise self._full(error.strerror or oneline(error)) from error
        self._entries.append((self._end, own.shape, own.dtype))
        self._end += own.nbytes

    def pop(self) -> torch.Tensor:
        """Read the last tensor, and cut it off."""
        tensor = self[len(self._entries) - 1]
        self._end = self._entries.pop()[0]
        self._file.truncate(self._end)
        return tensor

    def __getitem__(self, index: int) -> torch.Tensor:
        start, shape, dtype = self._entries[index]
        tensor = torch.empty(shape, dtype=dtype)
        self._file.seek(start)
        read = self._file.readinto(_bytes_of(tensor))
        if read != tensor.nbytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self._folder))
        return tensor

    def _full(self, why: str) -> DiskFullError:
        way = "free some room there, name an output on another disk, or leave out token_weights"
        return DiskFullError(f"hidden states of all blocks do not fit {self._folder} ({why}): {way}")


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data
