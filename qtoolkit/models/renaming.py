"""Translate names of tensors in a file into those in the model, as transformers does when it loads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def names_in_model(model: "PreTrainedModel", keys: Iterable[str], conversions: Sequence[Any]) -> dict[str, str]:
    """Return the name in the model for each name in a file.

    Args:
        model: the model; its values are not used.
        keys: names in the file.
        conversions: those rules of `get_model_conversion_mapping` that are to be applied.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    renamings = [rule for rule in conversions if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in conversions if isinstance(rule, WeightConverter)]
    known = model.state_dict()
    names = {}
    for key in keys:
        renamed, _ = rename_source_key(key, renamings, converters, model.base_model_prefix, known)
        # Some rules are for files of other versions of transformers.
        names[key] = key if renamed not in known and key in known else renamed
    return names


def splits_by_rows(rule: Any) -> bool:
    """Check whether a weight conversion of transformers makes several layers of the rows of one tensor."""
    from transformers.core_model_loading import WeightConverter

    return (
        isinstance(rule, WeightConverter)
        and len(rule.source_patterns) == 1 < len(rule.target_patterns)
        and [type(operation).__name__ for operation in rule.operations] in (["Chunk"], ["Split"])
        and all(getattr(operation, "dim", None) == 0 for operation in rule.operations)
    )


def converted_layers(model: "PreTrainedModel") -> dict[str, bool]:
    """Return the full names of the linear layers whose weight files keep in other parts, with whether it is merged.

    MiniMax-M3's checkpoints hold gate and up of an MLP by themselves, which transformers merges as it reads them
    (true); towers hold queries, keys and values as one, which it splits and reorders (false). Layers that are rows of a
    tensor have tensors of their own once a checkpoint is opened (`layers_in_one`).

    Args:
        model: its values are not used.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    from qtoolkit.models.experts import merges_experts
    from qtoolkit.models.structure import is_linear

    ends = {
        target.replace("\\.", ".").removesuffix("$"): len(rule.source_patterns) > 1
        for rule in get_model_conversion_mapping(model)
        if isinstance(rule, WeightConverter) and not merges_experts(rule) and not splits_by_rows(rule)
        if len(rule.source_patterns) != len(rule.target_patterns)
        for target in rule.target_patterns
    }
    found: dict[str, bool] = {}
    for name, module in model.named_modules() if ends else ():
        end = next((end for end in ends if f"{name}.weight".endswith((end, f"{end}.weight"))), None)
        if end is not None and is_linear(module):
            found[name] = ends[end]
    return found


def matrices_in_file(
    model: "PreTrainedModel", tensors: Mapping[str, Any], *, experts_apart: bool = False
) -> dict[str, str]:
    """Return the names of the matrices of a file, less ".weight", each with its name in the model.

    An expert that the file stores by itself, and the model in a larger tensor, has no module of the name in the model.

    Args:
        model: without values.
        tensors: of the file; those that are tied to others may be missing, and are added.
        experts_apart: whether names of experts are those that the model has once they are split.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping

    from qtoolkit.models.experts import merges_experts

    matrices = [name for name, tensor in tensors.items() if len(tensor.shape) == 2 and name.endswith(".weight")]
    conversions = get_model_conversion_mapping(model)
    conversions = [rule for rule in conversions if not (experts_apart and merges_experts(rule))]
    named = names_in_model(model, matrices, conversions)
    tied = {name: name for name in model.all_tied_weights_keys if name.endswith(".weight")}
    return {key.removesuffix(".weight"): name.removesuffix(".weight") for key, name in (tied | named).items()}
