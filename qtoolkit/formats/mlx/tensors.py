"""The tensors of an MLX checkpoint that store one weight: shapes, types, conversion to codes and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from qtoolkit.formats.mlx import GROUP_SIZES, WIDTHS
from qtoolkit.formats.recoding import grouped_scale, grouped_zero_points, packed_words
from qtoolkit.kernels import Codes, expand, output_blocks
from qtoolkit.tensor.int32_packing import pack_words, unpack_words
from qtoolkit.tensor.lazy import LazyTensor


@dataclass(frozen=True)
class AffineTensors:
    """How MLX stores a weight W[out_features, in_features]; a `GroupedTensors`.

    | tensor | type | shape |
    |---|---|---|
    | weight | uint32 | [out, in * bits / 32]: codes, each row one string of bits, low bits first |
    | scales | that of the model | [out, groups] |
    | biases | that of the scales | [out, groups]: what the code 0 stands for |

    W[o, i] = code[o, i] * scales[o, g] + biases[o, g] with g = i // group_size (mlx 0.32, `mlx.core.dequantize`). For
    symmetric codes biases = -2**(bits - 1) * scales, which changes the exponent alone and so is exact in every type.
    For others, biases = -zero_point * scales is rounded to the type.

    Attributes:
        out_features, in_features: of the weight.
        bits: 2, 3, 4, 5, 6 or 8.
        group_size: inputs that share a scale, 32, 64 or 128, which divides them.
        scale_dtype: type of the scales.
        symmetric: whether the biases are those of symmetric codes.

    Example: 5 bits for 64 x 128 weights, 64 * 20 words, and two groups of 64, each with two numbers of 2 bytes.

        >>> from qtoolkit.kernels import stored_bytes
        >>> stored_bytes(AffineTensors(64, 128, bits=5, group_size=64))
        5632
    """

    out_features: int
    in_features: int
    bits: int
    group_size: int
    scale_dtype: torch.dtype = torch.bfloat16
    symmetric: bool = True

    scale_name: ClassVar[str] = "scales"
    packed_names: ClassVar[tuple[str, ...]] = ("weight", "scales", "biases")
    expands_fast: ClassVar[bool] = False

    @property
    def centered(self) -> bool:
        """See `StoredTensors`."""
        return self.symmetric

    @property
    def has_minima(self) -> bool:
        """Check whether groups have a float minimum instead of a zero point; see `Codes`."""
        return not self.symmetric

    @property
    def inputs_per_scale(self) -> int:
        """See `StoredTensors`."""
        return self.group_size

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `StoredTensors`.

        Raises:
            ValueError: unknown bits, or groups that MLX does not have or that do not divide the inputs.
        """
        if self.bits not in WIDTHS:
            raise ValueError(f"bits must be one of {', '.join(map(str, WIDTHS))}, got {self.bits}")
        if self.group_size not in GROUP_SIZES or self.in_features % self.group_size:
            sizes = ", ".join(map(str, GROUP_SIZES))
            raise ValueError(
                f"group_size must be one of {sizes} and divide {self.in_features} inputs, got {self.group_size}"
            )
        groups = (self.out_features, self.in_features // self.group_size)
        return {
            "weight": ((self.out_features, self.in_features * self.bits // 32), torch.uint32),
            "scales": (groups, self.scale_dtype),
            "biases": (groups, self.scale_dtype),
        }

    def store(
        self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, groups: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """See `GroupedTensors`; the groups must be those of the inputs in order.

        Raises:
            ValueError: zero points of symmetric codes that are not 2**(bits - 1), or scales that MLX cannot multiply
                with all codes.
        """
        if self.symmetric and not (zero_point == 2 ** (self.bits - 1)).all():
            raise ValueError(f"zero points must be {2 ** (self.bits - 1)}: codes are symmetric")
        # [groups, out] -> [out, groups]
        scales = scale.T.to(self.scale_dtype).contiguous()
        self._refuse_large(scales)
        tensors = {"weight": _rows(codes, self.bits), "scales": scales, "biases": self._biases(scales, zero_point.T)}
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def recode(self, codes: Codes) -> dict[str, torch.Tensor]:
        """See `RecodedTensors`: the minima of asymmetric codes are rounded; the groups are those of inputs in order."""
        groups = self.in_features // self.group_size
        scales = grouped_scale(codes, groups).T.to(self.scale_dtype).contiguous()
        self._refuse_large(scales)
        return {
            "weight": packed_words(codes).T.contiguous().view(torch.uint32),
            "scales": scales,
            "biases": self._biases(scales, grouped_zero_points(codes, groups).T),
        }

    def _refuse_large(self, scales: torch.Tensor) -> None:
        """Refuse scales whose product with the largest code is infinite: MLX adds the minimum to that product.

        It does so in the type of the scales (mlx 0.32, `mlx.core.dequantize`, and `quantized_matmul` alike).

        Raises:
            ValueError: there are such scales.
        """
        if (scales.float().abs().amax() * (2**self.bits - 1)).to(self.scale_dtype).isinf():
            kind = str(self.scale_dtype).removeprefix("torch.")
            raise ValueError(
                f"MLX multiplies scales up to {scales.float().abs().amax():.4g} with codes up to {2**self.bits - 1} in "
                f"{kind}, which holds no more than {torch.finfo(self.scale_dtype).max:.4g}"
            )

    def _biases(self, scales: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
        """Return what the code 0 stands for, [out, groups]: exact for symmetric codes, otherwise rounded."""
        if self.symmetric:
            return minima(scales, self.bits)
        return (zero_point.float() * scales.float()).neg_().to(self.scale_dtype)

    def moved(self, tensors: Mapping[str, torch.Tensor], change: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors of a weight with a change [out, in] added, as far as minima or codes hold it.

        A change that is one number for each group moves the minima alone; of another one, codes are rounded anew.
        """
        scales, biases = tensors["scales"].float(), tensors["biases"].float()
        grouped = change.float().view(*scales.shape, -1)  # [out, in] -> [out, groups, group_size]
        if torch.equal(grouped, grouped[..., :1].expand_as(grouped)):
            return {**tensors, "biases": (biases + grouped[..., 0]).to(self.scale_dtype)}
        # [in, out] -> [out, groups, group_size]
        codes = unpack_words(tensors["weight"].view(torch.int32).T.contiguous(), self.bits).T.reshape(grouped.shape)
        # (code * scale + minimum + change - minimum) / scale; a group whose scale is 0 keeps its codes.
        levels = codes + (grouped / scales[..., None]).nan_to_num(0.0, 0.0, 0.0)
        found = levels.round_().clamp_(0, 2**self.bits - 1).to(torch.uint8)
        # [out, groups, group_size] -> [out, in] -> [in, out]
        return {**tensors, "weight": _rows(found.view(change.shape).T.contiguous(), self.bits)}

    def are_sound(self, tensors: Mapping[str, Any], *, reordered: bool) -> bool:
        """See `GroupedTensors`."""
        scales, biases = tensors["scales"][...], tensors["biases"][...]
        if self.symmetric:
            return are_symmetric(scales, biases, self.bits)
        return bool(scales.isfinite().all() and biases.isfinite().all())

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> "AffineRows":
        """See `StoredTensors`."""
        return AffineRows(self, tensors)

    def encode(self, codes: Codes) -> dict[str, LazyTensor]:
        """See `StoredTensors`."""

        def weight() -> torch.Tensor:
            return torch.cat([_rows(codes.codes(part), self.bits) for part in output_blocks(codes)])

        def scales() -> torch.Tensor:
            return codes.scale(slice(0, self.out_features)).T.contiguous()

        def biases() -> torch.Tensor:
            return minima(scales(), self.bits)

        makers = {"weight": weight, "scales": scales, "biases": biases}
        return {name: LazyTensor(*described, makers[name]) for name, described in self.tensors().items()}

    def __str__(self) -> str:
        """Return what `print(model)` shows of it."""
        return f"bits={self.bits}, group_size={self.group_size}"


class AffineRows(Codes):
    """The codes in the tensors of an `AffineTensors`.

    Args:
        stored: how they are stored.
        tensors: weight and scales, and biases where codes are not symmetric.
    """

    def __init__(self, stored: AffineTensors, tensors: Mapping[str, torch.Tensor]) -> None:
        middle = 2 ** (stored.bits - 1)
        self.bits = stored.bits
        self.in_features = stored.in_features
        self.out_features = stored.out_features
        self.inputs_per_scale = stored.group_size
        # torch computes little with uint32.
        self._words = tensors["weight"].view(torch.int32)
        self._scales = tensors["scales"]
        self.device = self._words.device
        self.zero_points = lambda outputs: middle
        self.centered = stored.symmetric
        self.has_minima = not stored.symmetric
        self._biases = None if stored.symmetric else tensors["biases"]

    def expanded(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """See `Codes`: as MLX computes it where codes are not symmetric, product and sum in float32."""
        if self._biases is None:
            return super().expanded(outputs, dtype)
        return _with_minima(self.codes(outputs), self._scales[outputs].T, self._biases[outputs].T, dtype)

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        # [outputs, words] -> [words, outputs] -> [in, outputs]
        return unpack_words(self._words[outputs].T.contiguous(), self.bits)

    def words(self) -> torch.Tensor:
        """See `Codes`."""
        return self._words.T

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._scales[outputs].T

    def rows_of(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """See `Codes`: only these rows are unpacked."""
        if not len(ids):
            return super().rows_of(ids, dtype)
        codes = unpack_words(self._words[ids].T.contiguous(), self.bits)
        if self._biases is not None:
            return _with_minima(codes, self._scales[ids].T, self._biases[ids].T, dtype).T
        return expand(codes, self._scales[ids].T, 2 ** (self.bits - 1), None, dtype).T


def _with_minima(codes: torch.Tensor, scales: torch.Tensor, biases: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return codes * scales + biases in `dtype`, [in, outputs]; scales and biases are [groups, outputs]."""
    # [in, outputs] -> [groups, group_size, outputs]
    levels = codes.view(len(scales), -1, codes.shape[1]).float()
    weight = levels.mul_(scales[:, None].float()).add_(biases[:, None].float())
    return weight.to(dtype).view(codes.shape)


def minima(scales: torch.Tensor, bits: int) -> torch.Tensor:
    """Return what the code 0 of symmetric codes stands for, in the type of the scales.

    >>> minima(torch.tensor([0.75, -0.5]), 4).tolist()
    [-6.0, 4.0]
    """
    return torch.mul(scales, -(2 ** (bits - 1)))


def are_symmetric(scales: torch.Tensor, biases: torch.Tensor, bits: int) -> bool:
    """Check that scales and biases are finite, and that the biases are those of symmetric codes."""
    return bool(biases.isfinite().all()) and torch.equal(biases, minima(scales, bits))


def _rows(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack codes uint8 [in, outputs] into rows of words, uint32 [outputs, in * bits / 32]."""
    return pack_words(codes, bits).T.contiguous().view(torch.uint32)
