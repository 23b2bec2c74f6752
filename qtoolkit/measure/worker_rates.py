"""Measure what one thread multiplies, factors, reads and writes in a second."""

import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

_SIZE = 1024  # of square matrices
_FILE_BYTES = 2**26


class Rates(NamedTuple):
    """What a worker does in a second: products and factors in operations, files in bytes."""

    multiply: float
    factor: float
    read: float
    write: float


@cache
def measure_rates() -> Rates:
    """Measure one thread in CPU seconds, so that other programs change little; a second or two, once in a process."""
    import torch

    def seconds(call: Callable[[], object]) -> float:
        call()
        start = time.process_time()
        call()
        # Some systems count in steps of 16 ms.
        return max(time.process_time() - start, 1e-3)

    square = torch.randn(_SIZE, _SIZE)
    positive = square @ square.T + _SIZE * torch.eye(_SIZE)
    multiply = 2 * _SIZE**3 / seconds(lambda: square @ square)
    factor = _SIZE**3 / 3 / seconds(lambda: torch.linalg.cholesky(positive))
    data = bytes(_FILE_BYTES)
    with tempfile.TemporaryDirectory() as beside:
        file = Path(beside) / "data"
        write = len(data) / seconds(lambda: file.write_bytes(data))
        read = len(data) / seconds(file.read_bytes)
    return Rates(multiply, factor, read, write)
