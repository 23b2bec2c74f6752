"""Divide a model into its blocks and all that is outside of them, so that each can be loaded and saved by itself."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.renaming import names_in_model
from qtoolkit.models.structure import block_list
from qtoolkit.tensor.lazy import LazyTensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ModelPart:
    """Say which names of a model are in one part of it.

    Attributes:
        blocks: names of all blocks, each with a point at its end.
        number: of the block; None for what is outside of the blocks.
    """

    blocks: tuple[str, ...]
    number: int | None

    def holds(self, name: str) -> bool:
        """Check whether a tensor or module of this name in the model is in the part."""
        if self.number is None:
            return not name.startswith(self.blocks)
        return name.startswith(self.blocks[self.number])

    def class_of(self, model_class: type["PreTrainedModel"]) -> type["PreTrainedModel"]:
        """Return a class of models of which transformers leaves weights that it is not given without values.

        It would make memory for them, and fill it with random numbers.
        """

        def leave(model: "PreTrainedModel", *given: Any, **named: Any) -> None:
            pass

        left = {"_move_missing_keys_from_meta_to_device": leave, "_initialize_missing_keys": leave}
        return type(model_class.__name__, (model_class,), {"__module__": model_class.__module__, **left})

    def without_others(self, model: "PreTrainedModel", info: Mapping[str, Any]) -> dict[str, Any]:
        """Take modules of other parts out of a loaded model; return what is known of its loading, of this part alone.

        Args:
            model: whose modules are replaced.
            info: the lists that transformers returns.
        """
        modules = dict(model.named_modules())
        for name, module in modules.items():
            if name and not self.holds(f"{name}.") and not [*module.children()]:
                parent, _, own = name.rpartition(".")
                setattr(modules[parent], own, nn.Identity())
        return {**info, "missing_keys": [name for name in info["missing_keys"] if self.holds(name)]}


class ModelParts:
    """Sort the tensors of a checkpoint by the parts of its model.

    Args:
        checkpoint: the model in full precision.

    Raises:
        UnsupportedModelError: no list of blocks is found, or its tensors cannot be read one by one.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping

        model = checkpoint.skeleton
        found = block_list(model)
        if found is None or checkpoint.expand is not None:
            why = "has no list of blocks" if found is None else "is read as a whole"
            raise UnsupportedModelError(f"{checkpoint.name} {why}, which workers cannot share: leave out executor")
        path, blocks = found
        self.names = tuple(f"{path}.{index}" for index in range(len(blocks)))
        self._checkpoint = checkpoint
        self._name_of = names_in_model(model, checkpoint.tensors, get_model_conversion_mapping(model))

    def part(self, number: int | None) -> ModelPart:
        """Return a block, or what is outside of the blocks."""
        return ModelPart(tuple(f"{name}." for name in self.names), number)

    def checkpoint_of(self, part: ModelPart) -> Checkpoint:
        """Return the checkpoint with the tensors of one part alone."""
        tensors = {key: tensor for key, tensor in self._checkpoint.tensors.items() if part.holds(self._name_of[key])}
        return replace(self._checkpoint, tensors=tensors)


def with_values(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return those tensors that have values: of a model that is there in part."""
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, LazyTensor) or not tensor.is_meta}
