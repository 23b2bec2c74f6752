"""The names that the tensors of a file have in the model, which transformers renames as it loads."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def names_in_model(model: "PreTrainedModel", keys: Iterable[str], conversions: Sequence[Any]) -> dict[str, str]:
    """Name in the file -> name in the model.

    Args:
        model: the model; its values are not looked at.
        keys: names in the file.
        conversions: rules of `get_model_conversion_mapping`, those that shall be followed.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    renamings = [rule for rule in conversions if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in conversions if isinstance(rule, WeightConverter)]
    prefix, known = model.base_model_prefix, model.state_dict()
    names = {}
    for key in keys:
        renamed, _ = rename_source_key(key, renamings, converters, prefix, known)
        # A rule for files of another age.
        names[key] = key if renamed not in known and key in known else renamed
    return names
