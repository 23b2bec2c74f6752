"""Let transformers' quantizers load the experts of a mixture as linear layers of their own.

This module is imported as soon as transformers is, possibly while a module of qtoolkit is being imported; so most of
qtoolkit is imported in functions.
"""

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transformers.quantizers.base import HfQuantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint

# As a pattern of `exclude` it means all layers of experts; as a name of modules that are left, transformers finds none.
EXPERTS = "experts.*"


class SplittingQuantizer(HfQuantizer):  # type: ignore[misc]
    """Base of the quantizers that may split experts, which transformers 5 keeps in two large tensors."""

    _experts_are_split = False

    def split_experts(self, model: "PreTrainedModel", quantized: Iterable[str] | None) -> None:
        """Replace the experts of a model without values by linear layers, named as in checkpoints.

        Args:
            model: is changed.
            quantized: full names of quantized layers in the model, its experts split; None for all.
        """
        from qtoolkit.models.experts import replace_experts

        replace_experts(model, quantized)
        self._experts_are_split = True

    def update_weight_conversions(self, weight_conversions: list[Any], *args: Any) -> list[Any]:
        """See transformers: without those that merge experts which are split."""
        from qtoolkit.models.experts import merges_experts

        conversions = [entry for entry in weight_conversions if not (self._experts_are_split and merges_experts(entry))]
        return super().update_weight_conversions(conversions, *args)  # type: ignore[no-any-return]


def experts_of(model: "PreTrainedModel", stored: Iterable[str]) -> list[str]:
    """Return the names in the model of a file's quantized layers of experts that the model holds in large tensors.

    Args:
        model: the model.
        stored: names of the quantized layers in the file.
    """
    from qtoolkit.formats.stored_layer import module_names
    from qtoolkit.models.experts import find_experts

    experts = [f"{name}." for name in find_experts(model)]
    # A file may lack the prefix of the base model.
    prefix = f"{model.base_model_prefix}."
    ends = {name.removeprefix(prefix): name for name in experts}
    found = []
    for name in module_names(model, list(stored)).values():
        end = name.removeprefix(prefix)
        whole = next((whole for start, whole in ends.items() if end.startswith(start)), None)
        if whole is not None:
            found.append(whole + end.removeprefix(whole.removeprefix(prefix)))
    return found


def leaves_experts(checkpoint: "Checkpoint", stored: Iterable[str]) -> bool:
    """Check whether a quantized checkpoint holds experts in full that could be layers.

    Args:
        checkpoint: quantized.
        stored: names of its quantized layers in the file.
    """
    from qtoolkit.models.experts import find_experts

    return bool(find_experts(checkpoint.skeleton)) and not experts_of(checkpoint.skeleton, stored)


def with_experts_excluded(checkpoint: "Checkpoint") -> "Checkpoint":
    """Return a checkpoint whose config names method, options and layers, with its experts excluded if it leaves them.

    Experts are planned as layers, and older files hold those that transformers merged in full.
    """
    values = checkpoint.quantization or {}
    options, layers = values.get("options"), values.get("layers")
    if not isinstance(options, dict) or not isinstance(layers, list) or not leaves_experts(checkpoint, layers):
        return checkpoint
    config = copy.deepcopy(checkpoint.config)
    excluded = [*(options.get("exclude") or ()), EXPERTS]
    config.quantization_config = {**values, "options": {**options, "exclude": excluded}}
    return replace(checkpoint, config=config)
