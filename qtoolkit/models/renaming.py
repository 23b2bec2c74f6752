"""Translate names of tensors in a file into those in the model, as transformers does when it loads."""

from collections.abc import Iterable, Sequence
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
