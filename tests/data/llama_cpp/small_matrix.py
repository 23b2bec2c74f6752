"""The matrix that llama.cpp quantized for the tests: rows of many kinds, made by whole numbers alone."""

import numpy as np


def _uniform(count: int, seed: int) -> np.ndarray:
    """Return numbers from 0 to 1 of a linear congruential generator, which no version of numpy changes."""
    state, numbers = seed, []
    for _ in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        numbers.append((state >> 8) / 2**24)
    return np.array(numbers)


def _matrix() -> np.ndarray:
    """Return rows that are nearly normal, with a heavy tail, of one sign, zero in part, constant, and of 16 levels.

    Codes of 5 bits for 16 levels are ties: what rounds them in another order finds other scales.
    """
    normal = _uniform(12 * 8 * 512, 1).reshape(12, 8, 512).sum(0) - 6
    normal *= (0.02 * (1 + np.arange(8)))[:, None]
    normal[1] = normal[1] ** 3
    normal[2], normal[3] = -np.abs(normal[2]), np.abs(normal[3])
    normal[4, :300] = 0
    normal[5, :256] = 0.25
    normal[6, 17] = 9.0
    levels = np.floor(_uniform(4 * 512, 3) * 16).reshape(4, 512) - 6
    levels[:, ::32], levels[:, 1::32] = -6, 9
    steps = np.repeat(0.02 + 0.04 * _uniform(4 * 16, 4).reshape(4, 16), 32, 1)
    return np.ascontiguousarray(np.concatenate([normal, levels * steps]), np.float32)


WEIGHT = _matrix()
IMPORTANCE = np.ascontiguousarray(_uniform(512, 2) ** 4 + 0.001, np.float32)
