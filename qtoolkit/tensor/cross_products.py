"""Sum up the products of two kinds of vectors of the same tokens, X^T Y, as `hessian` does with one kind."""

import torch

from qtoolkit.tensor.padded_rows import padded
from qtoolkit.tensor.processor import bfloat16_is_native


class CrossProducts:
    """Sum x y^T over all tokens, float32 [in, out].

    Products are computed as those of `Hessian`: exactly, or in bfloat16 where both are bfloat16 and the CPU has such
    instructions, with a relative error of 0.001 each; they are added in float32.

    Args:
        in_features: size of an x.
        out_features: size of a y.
        device: device of the sum.

    Attributes:
        sum: X^T Y float32 [in, out].

    Example: tokens with x = (1, 2), y = 3 and x = (4, 5), y = 6.

        >>> products = CrossProducts(2, 1, torch.device("cpu"))
        >>> products.add(torch.tensor([[1.0, 2.0], [4.0, 5.0]]), torch.tensor([[3.0], [6.0]]))
        >>> products.sum.tolist()
        [[27.0], [36.0]]
    """

    def __init__(self, in_features: int, out_features: int, device: torch.device) -> None:
        self.sum = torch.zeros(in_features, out_features, device=device)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add X^T Y of x[tokens, in] and y[tokens, out], floating and of one type; few thousand tokens at one time."""
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and bfloat16_is_native():
            self.sum += padded(x).T @ padded(y)
        elif x.dtype in (torch.bfloat16, torch.float16) and x.device.type == "cuda":
            self.sum += torch.mm(x.T, y, out_dtype=torch.float32)
        else:
            self.sum.addmm_(x.T.float(), y.float())
