"""Count how far a file was read while it is sent to the Hub."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from huggingface_hub import CommitOperationAdd

from qtoolkit.hub.transfer import StoppedError

Content = Path | bytes


class Addition(CommitOperationAdd):
    """A file of a commit that counts what is read of it to be sent.

    hf_xet reads a file by itself, and huggingface_hub hands on no progress of it: the count stays 0 then.

    Attributes:
        num_bytes_read: how far it was read; what is read again after a lost connection does not count twice.
        stopped: set when reading should break off.
    """

    num_bytes_read = 0
    stopped = threading.Event()

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        """Open the content; `with_tqdm` is set where it is read to be sent, and counted then."""
        if with_tqdm and isinstance(self.path_or_fileobj, str):
            with _CountedFile(self.path_or_fileobj, self) as file:
                yield cast("BinaryIO", file)
        else:
            with super().as_file() as content:
                yield content


class _CountedFile(io.FileIO):
    """A file that notes in its addition how far it was read."""

    def __init__(self, path: str, addition: Addition) -> None:
        super().__init__(path)
        self.addition = addition

    def read(self, size: int | None = -1) -> bytes:
        """Read some bytes, and count them.

        Raises:
            StoppedError: the upload was stopped.
        """
        if self.addition.stopped.is_set():
            raise StoppedError
        data = super().read(-1 if size is None else size)
        self.addition.num_bytes_read = max(self.addition.num_bytes_read, self.tell())
        return data or b""
