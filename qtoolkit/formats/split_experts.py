"""Let transformers' quantizers load the experts of a mixture as linear layers of their own.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from transformers.quantizers.base import HfQuantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SplittingQuantizer(HfQuantizer):  # type: ignore[misc]
    """Base of the quantizers that may split experts, which transformers 5 keeps in two large tensors."""

    _experts_are_split = False

    def split_experts(self, model: "PreTrainedModel") -> None:
        """Replace the experts of a model without values by linear layers, named as in checkpoints."""
        from qtoolkit.models.experts import replace_experts

        replace_experts(model)
        self._experts_are_split = True

    def update_weight_conversions(self, weight_conversions: list[Any], *args: Any) -> list[Any]:
        """See transformers: without those that merge experts which are split."""
        from qtoolkit.models.experts import merges_experts

        conversions = [entry for entry in weight_conversions if not (self._experts_are_split and merges_experts(entry))]
        return super().update_weight_conversions(conversions, *args)  # type: ignore[no-any-return]


def holds_experts(model: "PreTrainedModel", stored: Iterable[str]) -> bool:
    """Check whether a file stores experts quantized one by one that the model holds in large tensors.

    Args:
        model: the model.
        stored: names of the quantized layers in the file.
    """
    from qtoolkit.formats.stored_layer import module_names
    from qtoolkit.models.experts import find_experts

    # A file may lack the prefix of the base model.
    prefix = f"{model.base_model_prefix}."
    experts = tuple(f"{name.removeprefix(prefix)}." for name in find_experts(model))
    names = module_names(model, list(stored))
    return any(name.removeprefix(prefix).startswith(experts) for name in names.values())
