"""What is asked of a planner where a target gives layers their bits or types by sensitivity: bytes, and weights."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qtoolkit.formats.layer import Layer

if TYPE_CHECKING:
    import torch

    from qtoolkit.tensor.hessian import Hessian


class MeasuredChoices:
    """Base of planners, for whose layers several numbers of bits or types may be measured.

    Attributes:
        corrects: whether the weights of a layer make good one another's errors, by its inputs (`corrected`).
    """

    corrects: bool = False

    def sizes_by_choice(self, layer: Layer, config: Any) -> Mapping[Any, int]:
        """Return the bytes in the file of a layer with each number of bits, or each type, that a target may give it.

        For methods whose config is a `MixedConfig`.

        Args:
            layer: name, shape and device.
            config: the layer's own.

        Raises:
            NotImplementedError: all layers are stored alike.
        """
        raise NotImplementedError("all layers are stored alike")

    def rounded(self, weight: "torch.Tensor", layer: Layer, config: Any) -> "torch.Tensor":
        """Return the weight rounded to the nearest codes, without calibration; it measures the layer's sensitivity.

        For methods whose config is a `MixedConfig`; of those that correct, for layers outside the blocks alone.

        Args:
            weight: W[out, in] float32, finite; or some of its rows.
            layer: name, shape and device.
            config: the layer's own.

        Returns:
            float32 [out, in].

        Raises:
            NotImplementedError: all layers have the same bits.
        """
        raise NotImplementedError("all layers have the same bits")

    def corrected(
        self, weights: "Iterable[torch.Tensor]", inputs: "Hessian", configs: Sequence[Any]
    ) -> "Iterator[Sequence[torch.Tensor]]":
        """Yield what layers with the same inputs become if each is quantized alone; it measures their sensitivity.

        For methods whose config is a `MixedConfig` and that correct.

        Args:
            weights: W[out, in] float32 of each layer, finite.
            inputs: of these layers; of few tokens, or none where an expert was never chosen.
            configs: the layers' own, which differ in bits or types alone.

        Yields:
            for each layer, its weight float32 [out, in] with the options of each config.

        Raises:
            QToolkitError: the inputs do not allow it.
            NotImplementedError: the method does not correct.
        """
        raise NotImplementedError("each weight is rounded by itself")
