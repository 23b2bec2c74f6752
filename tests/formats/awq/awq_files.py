"""AWQ checkpoints of small models, packed by AutoAWQ's formula written out, and the models that they stand for."""

import numpy as np
import torch


def packed_by_the_formula(codes: torch.Tensor) -> torch.Tensor:
    """Pack [n, m] as AutoAWQ's `WQLinear_GEMM.from_linear` does, number by number."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    numbers = codes.numpy().astype(np.uint32)
    words = np.zeros((numbers.shape[0], numbers.shape[1] // 8), dtype=np.uint32)
    for column in range(words.shape[1]):
        for place in range(8):
            words[:, column] |= numbers[:, column * 8 + order[place]] << np.uint32(4 * place)
    return torch.from_numpy(words.view(np.int32))
