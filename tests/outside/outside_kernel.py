"""square: a kernel for 4-bit codes of 64 x 64 weights, which keeps them as whole bytes."""

from math import prod

import torch

from qtoolkit.kernels import Codes, Kernel, StoredTensors

SIDE = 64


class SquareCodes(Codes):
    """Levels int8 [in, out], codes less 8, and their scales [groups, out]."""

    bits = 4
    in_features = out_features = SIDE
    centered = True

    def __init__(self, levels: torch.Tensor, scales: torch.Tensor) -> None:
        self.inputs_per_scale, self.device = SIDE // len(scales), levels.device
        self.zero_points = middle
        self.levels, self.scales = levels, scales

    def codes(self, outputs: slice) -> torch.Tensor:
        return (self.levels[:, outputs].to(torch.int16) + 8).to(torch.uint8)

    def scale(self, outputs: slice) -> torch.Tensor:
        return self.scales[:, outputs]

    def multiply(self, x: torch.Tensor) -> torch.Tensor | None:
        # [in, out] -> [groups, group_size, out]
        levels = self.levels.view(len(self.scales), -1, SIDE).float()
        return (x.float() @ (levels * self.scales[:, None].float()).flatten(0, 1)).to(x.dtype)

    def buffers(self) -> dict[str, torch.Tensor]:
        return {"levels": self.levels, "scales": self.scales}


def middle(outputs: slice) -> int:
    return 8


class SquareKernel(Kernel):
    """Takes centered 4-bit codes of 64 x 64 on a CPU."""

    def takes(self, weight: Codes | StoredTensors, device: torch.device) -> bool:
        shape = (weight.out_features, weight.in_features)
        return shape == (SIDE, SIDE) and weight.bits == 4 and weight.centered and device.type == "cpu"

    def pack(self, codes: Codes) -> Codes | None:
        outputs = slice(0, SIDE)
        return SquareCodes((codes.codes(outputs).to(torch.int16) - 8).to(torch.int8), codes.scale(outputs).contiguous())

    def packed_bytes(self, stored: StoredTensors, device: torch.device) -> int:
        shape, dtype = stored.tensors()[stored.scale_name]
        return SIDE * SIDE + prod(shape) * dtype.itemsize


KERNEL = SquareKernel()
