"""Tell experts by the names of their layers, and name a model's tensors as in files, where each expert has its own."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qtoolkit.models.experts import find_experts, tensors_apart
from qtoolkit.models.layers_in_one import layers_apart

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def are_of_experts(model: "PreTrainedModel", names: Iterable[str]) -> bool:
    """Check whether some of these modules are parts of experts that a model holds in large tensors.

    Args:
        model: the model, its experts not split.
        names: full names of modules, as the model has them once its experts are split.
    """
    experts = tuple(f"{name}." for name in find_experts(model))
    return any(name.startswith(experts) for name in names)


def named_as_saved(model: "PreTrainedModel", tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a model's tensors by the names that `save_pretrained` gives them; those of experts are views.

    transformers' own conversion copies them (`core_model_loading.Chunk`), which takes as much memory again.

    Args:
        model: without values.
        tensors: of the model, by their names in it; those that are tied to others are left out.
    """
    from transformers.core_model_loading import revert_weight_conversion

    split = {name: tensor for name, tensor in tensors.items() if name not in model.all_tied_weights_keys}
    # As if a file had them in one tensor, which they are views of.
    experts = {name: replace(layout, is_apart=False) for name, layout in find_experts(model).items() if layout.is_apart}
    saved = revert_weight_conversion(model, dict(tensors_apart(model, split, experts)))
    return dict(layers_apart(model, dict(saved)))  # type: ignore[arg-type]
