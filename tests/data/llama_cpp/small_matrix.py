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
    """Return rows that are nearly normal, with a heavy tail, of one sign, zero in part, and constant."""
    normal = _uniform(12 * 8 * 512, 1).reshape(12, 8, 512).sum(0) - 6
    normal *= (0.02 * (1 + np.arange(8)))[:, None]
    normal[1] = normal[1] ** 3
    normal[2], normal[3] = -np.abs(normal[2]), np.abs(normal[3])
    normal[4, :300] = 0
    normal[5, :256] = 0.25
    normal[6, 17] = 9.0
    return np.ascontiguousarray(normal, np.float32)


WEIGHT = _matrix()
IMPORTANCE = np.ascontiguousarray(_uniform(512, 2) ** 4 + 0.001, np.float32)
