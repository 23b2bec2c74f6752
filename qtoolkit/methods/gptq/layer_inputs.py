"""Sum up what a group of layers gets on a calibration text, and make of it what the solver needs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.methods.gptq.correction import Correction
from qtoolkit.methods.gptq.solver import SingularHessianError, column_order, factor
from qtoolkit.stream.groups import GroupInputs
from qtoolkit.tensor.hessian import Hessian
from qtoolkit.tensor.processor import bfloat16_is_native

# With how many tokens those of the other experts count beside an expert's own, and from how many of its own on they are
# left out, as a share of under 6 %. Measured by benchmarks/blended_hessians.py.
SHARED_TOKENS = 128
FEW_TOKENS = 16 * SHARED_TOKENS


@dataclass(frozen=True)
class Factored:
    """The Hessian of a group of layers and its factor, as `solver.solve` takes it.

    Attributes:
        hessian: [in, in].
        importance: its diagonal [in].
        order: in which columns are done, int64 [in].
        lower, diagonal: of `solver.factor`.
        damp: the damping that was used.
    """

    hessian: torch.Tensor
    importance: torch.Tensor
    order: torch.Tensor
    lower: torch.Tensor
    diagonal: torch.Tensor
    damp: float


class LayerInputs:
    """Sum up the inputs of layers that share them.

    Args:
        names: full names of the layers.
        in_features: size of an input.
        device: where the sums are.
    """

    def __init__(self, names: Sequence[str], in_features: int, device: torch.device) -> None:
        self._names = names
        self._device = device
        self._hessian = Hessian(in_features, device)
        self._correction = Correction(in_features, device)

    def add(self, batch: GroupInputs) -> None:
        """See `Accumulator`."""
        self._hessian.add(batch.inputs, batch.weights)
        self._correction.add(batch)

    def sums(self) -> dict[str, torch.Tensor]:
        """See `ShardAccumulator`."""
        return {**self._hessian.sums(), **self._correction.sums()}

    def add_sums(self, sums: Mapping[str, StoredTensor | torch.Tensor]) -> None:
        """See `ShardAccumulator`."""
        own = {name: tensor[...] for name, tensor in sums.items()}
        self._hessian.add_sums(own["hessian"], int(own["num_inputs"]))
        self._correction.add_sums(own)

    @property
    def are_few(self) -> bool:
        """Return whether there are so few inputs that those of other experts help."""
        return self._hessian.num_inputs < FEW_TOKENS

    def lean_on(self, inputs: torch.Tensor) -> None:
        """See `Accumulator`: H = (n H_own + k H_others) / (n + k), with k of `SHARED_TOKENS`."""
        self._hessian.lean_on(inputs, SHARED_TOKENS)

    def factored(self, order: str, damp_percent: float) -> Factored:
        """Factor the sums.

        Args:
            order: of `solver.column_order`.
            damp_percent: as for `solver.factor`.

        Raises:
            UnsupportedModelError: no damping makes a factor of them.
        """
        hessian = self._hessian.full()
        importance = hessian.diagonal().clone()
        columns = column_order(importance, order)
        try:
            lower, diagonal, damp = factor(hessian, columns, damp_percent)
        except SingularHessianError as error:
            raise UnsupportedModelError(
                f"{self._names[0]} cannot be calibrated ({error}): give other calibration text, or exclude it"
            ) from error
        return Factored(hessian, importance, columns, lower, diagonal, damp)

    def target(self, weights: Mapping[str, torch.Tensor], factored: Factored, qep_alpha: float) -> torch.Tensor:
        """Return weights [out, in] side by side, transposed and corrected for what layers before have changed.

        Returns:
            float32 [in, sum of out].
        """
        stacked = torch.cat([value.to(self._device, torch.float32) for value in weights.values()])
        return self._correction.applied(
            stacked.T.contiguous(), qep_alpha, factored.lower, factored.diagonal, factored.order
        )

    def facts(self, error: float, damp: float, *, wants_exact: bool, raised: int = 0) -> dict[str, Any]:
        """Return what a journal and a report tell of one layer: fields of `LayerError`."""
        facts = {"error": error, "damp_percent": damp, "num_inputs": self._hessian.num_inputs}
        facts |= {"corrected": self._correction.is_known} if wants_exact else {}
        return facts | {"raised": raised} if raised else facts


class SolvedTogether:
    """Base of the `Accumulator`s of layers that share their inputs; a subclass solves them.

    Args:
        names: full names of the layers.
        in_features: size of an input.
        device: where the sums are.
    """

    def __init__(self, names: Sequence[str], in_features: int, device: torch.device) -> None:
        self._names = names
        self._inputs = LayerInputs(names, in_features, device)

    def add(self, batch: GroupInputs) -> None:
        """See `Accumulator`."""
        self._inputs.add(batch)

    def sums(self) -> dict[str, torch.Tensor]:
        """See `ShardAccumulator`."""
        return self._inputs.sums()

    def add_sums(self, sums: Mapping[str, StoredTensor | torch.Tensor]) -> None:
        """See `ShardAccumulator`."""
        self._inputs.add_sums(sums)

    @property
    def wants_more(self) -> bool:
        """See `Accumulator`."""
        return self._inputs.are_few

    def lean_on(self, inputs: torch.Tensor) -> None:
        """See `Accumulator`."""
        self._inputs.lean_on(inputs)


def are_facts(facts: Mapping[str, Any], layers: Mapping[str, Any], *, wants_exact: bool) -> bool:
    """Check whether a journal's facts, by full names, are of these layers and such as `LayerInputs.facts` returns."""
    types = {"error": float, "damp_percent": float, "num_inputs": int} | ({"corrected": bool} if wants_exact else {})
    return facts.keys() == layers.keys() and all(
        isinstance(values, dict)
        and {key: type(value) for key, value in values.items()} in (types, {**types, "raised": int})
        and math.isfinite(values["error"])
        and math.isfinite(values["damp_percent"])
        and values["num_inputs"] >= 0
        and values.get("raised", 0) >= 0
        for values in facts.values()
    )


def share_of(loss: torch.Tensor, energies: torch.Tensor) -> float:
    """Return the squared error of a layer's outputs as a share of their squares, both [out]; 0 of outputs of zero."""
    total = energies.sum().item()
    return loss.sum().item() / total if total else 0.0


def energy(weight: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Return the sum of squares of each output of a layer over all inputs, [out]: the diagonal of W H W^T.

    On a CPU with bfloat16 instructions, products are computed in bfloat16: the sum is off by about 0.1 %.
    """
    dtype = torch.bfloat16 if weight.device.type == "cpu" and bfloat16_is_native() else torch.float32
    hessian = hessian.to(dtype)
    parts = [(hessian @ part.to(dtype)).float().mul_(part).sum(0) for part in weight.split(2048, dim=1)]
    return torch.cat(parts)
