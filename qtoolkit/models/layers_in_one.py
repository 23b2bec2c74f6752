"""Give each of several layers that a file holds as one tensor a name and rows of its own: queries, keys and values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.models.renaming import names_in_model, splits_by_rows

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Tensors = Mapping[str, StoredTensor | torch.Tensor]


@dataclass(frozen=True)
class RowsTensor(StoredTensor):
    """Some rows of a tensor, read when it is indexed.

    Attributes:
        shape, nbytes: of these rows; the others are those of the whole tensor.
        whole: the tensor.
        first: the first of its rows.
    """

    whole: StoredTensor
    first: int

    @property
    def stored_bytes(self) -> int:
        """Return the rows' share of what the whole takes in the file."""
        return self.whole.stored_bytes * self.nbytes // max(1, self.whole.nbytes)

    @property
    def working_bytes(self) -> int:
        """Return what reading the whole takes beside it."""
        return self.whole.working_bytes

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Read the rows, then index them; raises as the whole."""
        return self.part(0, self.shape[0])[index]

    def part(self, first: int, last: int) -> torch.Tensor:
        """Read rows from `first` up to `last`, without that; raises as the whole."""
        last = min(last, self.shape[0])
        return self.whole.part(self.first + min(first, last), self.first + last)

    def first_bytes(self, count: int) -> bytes:
        """Return the first `count` bytes of the rows, or all where they have fewer."""
        return self.part(0, self.shape[0]).view(torch.uint8).numpy().tobytes()[:count]


def may_hold_in_one(config: "PreTrainedConfig") -> bool:
    """Check whether files of a kind of model may hold several layers as one tensor, by its config alone.

    A multimodal model's parts have configs of their own, and transformers names conversions by type or by class.
    """
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    parts = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    types = _texts([getattr(part, "model_type", None) for part in parts])
    classes = [name for kind in types for name in _texts(MODEL_MAPPING_NAMES.get(kind))]
    kinds = {*types, *classes, *_texts(config.architectures)}
    return any(splits_by_rows(rule) for kind in sorted(kinds) for rule in get_checkpoint_conversion_mapping(kind) or ())


def _texts(found: Any) -> list[str]:
    """Return a text, or the texts among several values; a config may hold anything."""
    values = found if isinstance(found, list | tuple) else [found]
    return [value for value in values if isinstance(value, str)]


def layers_apart(model: "PreTrainedModel", tensors: Tensors) -> Tensors:
    """Return tensors with those that hold several layers replaced by the rows of each; nothing is read.

    transformers splits them as it loads, and knows no codes of such a tensor.

    Args:
        model: its values are not used.
        tensors: by their names in the file.

    Returns:
        the tensors, those of layers by their names in the model.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping

    conversions = get_model_conversion_mapping(model)
    rules = [rule for rule in conversions if splits_by_rows(rule)]
    if not rules:
        return tensors
    known = model.state_dict()
    named = names_in_model(model, tensors, conversions)
    apart: dict[str, StoredTensor | torch.Tensor] = {}
    for key, tensor in tensors.items():
        parts = _parts(named[key], rules, known)
        if len(tensor.shape) == 2 and parts and sum(rows for _, rows in parts) == tensor.shape[0]:
            apart.update(_rows_of(tensor, parts))
        else:
            apart[key] = tensor
    return apart


def _parts(name: str, rules: list[Any], known: Mapping[str, torch.Tensor]) -> list[tuple[str, int]]:
    """Return the layers' weights that the tensor of a name holds, each with its rows, in order; none of other tensors.

    Args:
        name: of the first of them, as transformers calls the whole.
        rules: those that split.
        known: the model's tensors.
    """
    for rule in rules:
        targets = [target.replace("\\.", ".").removesuffix("$") for target in rule.target_patterns]
        if targets[0] in name:
            names = [name.replace(targets[0], target) for target in targets]
            if all(one in known and known[one].ndim == 2 for one in names):
                return [(one, known[one].shape[0]) for one in names]
    return []


def _rows_of(
    tensor: StoredTensor | torch.Tensor, parts: list[tuple[str, int]]
) -> Iterator[tuple[str, StoredTensor | torch.Tensor]]:
    """Yield the rows of each part with its name; a view, or what is read when it is indexed."""
    first = 0
    for name, rows in parts:
        if isinstance(tensor, torch.Tensor):
            yield name, tensor[first : first + rows]
        else:
            yield (
                name,
                RowsTensor(
                    file=tensor.file,
                    shape=(rows, *tensor.shape[1:]),
                    dtype=tensor.dtype,
                    start=tensor.start,
                    nbytes=tensor.nbytes // tensor.shape[0] * rows,
                    stamp=tensor.stamp,
                    whole=tensor,
                    first=first,
                ),
            )
        first += rows
