"""Hold a model of which only the part in use is in memory: one block, or everything outside the blocks.

transformers builds the modules and puts tensors into them (renamed, merged, cast), as it does for a whole model, but it
gets the tensors of one part at a time.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from qtoolkit.checkpoints.remedy import file_of, sound_copy
from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.models.building import build_empty, using_transformers
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.experts import find_experts, merges_experts, replace_experts, tensors_apart
from qtoolkit.models.renaming import names_in_model
from qtoolkit.models.structure import block_list, output_head
from qtoolkit.models.unreached_blocks import unreached_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class StreamedModel:
    """Load the blocks of a causal language model one at a time.

    Experts that transformers keeps in one tensor are split into linear layers, named as in the file, or, where the file
    keeps them so too, as `find_experts` says.

    Args:
        checkpoint: the model in full precision.
        device: where parts are loaded to, "cpu" or "cuda:0".
        dtype: the type they compute in.
        quantized: full names of the layers that will be quantized; experts that the file keeps in one tensor stay in it
            where none of them will be. None for all experts.

    Attributes:
        name: the user's name for the model.
        model: on the meta device except for the part in use.
        blocks: the list of its blocks.
        block_names: their full names, "model.layers.0".
        tensors: the checkpoint's tensors by their name in the file, those of experts one by one.
        name_of: name in the file -> name in the model.

    Raises:
        UnsupportedModelError: no list of blocks is found.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, device: str, dtype: torch.dtype, quantized: Iterable[str] | None = None
    ) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping

        self.device = device
        self.dtype = dtype
        self.name = checkpoint.name
        self.model: PreTrainedModel = build_empty(checkpoint, dtype).eval()
        experts = find_experts(self.model, quantized)
        self.tensors = tensors_apart(self.model, checkpoint.named_as_stored(self.model), experts)
        conversions = get_model_conversion_mapping(self.model)
        replace_experts(self.model, quantized)
        # Experts that stay in large tensors are merged as ever.
        self._conversions = [rule for rule in conversions if not (experts and merges_experts(rule))]
        self.name_of = names_in_model(self.model, self.tensors, self._conversions)
        found = block_list(self.model)
        if found is None:
            kind = self.model.config.model_type
            raise UnsupportedModelError(f"{checkpoint.name} ({kind}) has no list of blocks: take a method without text")
        path, self.blocks = found
        self.block_names = tuple(f"{path}.{index}" for index in range(len(self.blocks)))
        # Most of what makes hidden states of images has no part in those of a text.
        self._unreached = unreached_parts(self.model)
        self._tell_device()

    def _tell_device(self) -> None:
        """Let the model and those that it is made of name the device of what is in use.

        transformers names that of their first parameter, to which some models of images move what a text's tokens are
        looked up as; without values, a tower is on none.
        """
        from transformers import PreTrainedModel

        for part in [part for part in self.model.modules() if isinstance(part, PreTrainedModel)]:
            kind = type(part)
            told = {"device": torch.device(self.device), "__module__": kind.__module__}
            part.__class__ = type(kind.__name__, (kind,), told)

    def names_by_block(self, names: Sequence[str]) -> list[list[str]]:
        """Sort the full names of layers by the block that they are in, and shorten them to names within it."""
        prefixes = [f"{block}." for block in self.block_names]
        return [[name.removeprefix(prefix) for name in names if name.startswith(prefix)] for prefix in prefixes]

    @contextmanager
    def outside(self, *, with_head: bool = False) -> Iterator["PreTrainedModel"]:
        """Load everything that runs before and after the blocks, for the time of a `with` block.

        Args:
            with_head: whether the output head is loaded too.
        """
        head = None if with_head else output_head(self.model)
        excluded = (*self.block_names, *self._unreached, *([head] if head else []))
        prefixes = tuple(f"{part}." for part in excluded)
        keys = [key for key, name in self.name_of.items() if not name.startswith(prefixes)]
        modules = [
            module
            for name, module in self.model.named_modules()
            if name not in excluded and not name.startswith(prefixes)
        ]
        with self._loaded(keys, modules):
            yield self.model

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        """Load block `index` for the time of a `with` block."""
        prefix = f"{self.block_names[index]}."
        keys = [key for key, name in self.name_of.items() if name.startswith(prefix)]
        block = self.blocks[index]
        with self._loaded(keys, list(block.modules())):
            yield block

    @contextmanager
    def _loaded(self, keys: list[str], modules: list[nn.Module]) -> Iterator[None]:
        """Load the tensors of some modules for the time of a `with` block."""
        self._fill(keys, modules)
        try:
            yield
        finally:
            for module in modules:
                _empty(module)
            give_memory_back()

    def _fill(self, keys: list[str], modules: list[nn.Module]) -> None:
        """Read tensors into the model; `modules` must have all values afterwards."""
        from transformers.modeling_utils import LoadStateDictConfig

        how = LoadStateDictConfig(
            device_map={"": self.device},
            dtype=self.dtype,
            dtype_plan=self.model._get_dtype_plan(self.dtype),  # noqa: SLF001
            weight_mapping=list(self._conversions),
        )
        with using_transformers():
            type(self.model)._load_pretrained_model(  # noqa: SLF001
                self.model, {key: self.tensors[key] for key in keys}, None, how, expected_keys=[]
            )
        self._tie(modules)
        for module in modules:
            self._fill_buffers(module)
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.is_meta:
                    kind = type(module).__name__
                    way = sound_copy(file_of(self.tensors))
                    raise CheckpointError(f"{self.name} has no {name} for a {kind}: {way}")

    def _tie(self, modules: list[nn.Module]) -> None:
        """Tie parameters that share one tensor, of which the checkpoint holds only one.

        A block whose parameters are those of another, as in Zamba, reads them while the other is empty.
        """
        for target, source in self.model.all_tied_weights_keys.items():
            owner, _, name = target.rpartition(".")
            module = self.model.get_submodule(owner)
            if not any(module is own for own in modules):
                continue
            shared: torch.Tensor | None = self.model.get_parameter(source)
            if shared is not None and shared.is_meta:
                shared = self._read(source) if module.get_parameter(name).is_meta else None
            if shared is not None:
                tied = shared if isinstance(shared, nn.Parameter) else nn.Parameter(shared, requires_grad=False)
                module._parameters[name] = tied  # noqa: SLF001

    def _read(self, parameter: str) -> torch.Tensor | None:
        """Read a parameter that the file holds as the model does; None where it holds none of this name and shape."""
        like = self.model.get_parameter(parameter)
        key = next((key for key, name in self.name_of.items() if name == parameter), None)
        if key is None or tuple(self.tensors[key].shape) != tuple(like.shape):
            return None
        value: torch.Tensor = self.tensors[key][...]
        return value.to(self.device, like.dtype)

    def _fill_buffers(self, module: nn.Module) -> None:
        """Compute buffers that no file holds, by transformers' own initialization of the module.

        Raises:
            UnsupportedModelError: nothing fills one of them.
        """
        missing = {name: buffer for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        for name, buffer in missing.items():
            empty = torch.empty_like(buffer, device=self.device)
            module._buffers[name] = empty.fill_(torch.nan) if empty.is_floating_point() else empty  # noqa: SLF001
        if not missing:
            return
        from transformers.initialization import guard_torch_init_functions

        for owner, initialized in self._initializations(module):
            with torch.no_grad(), guard_torch_init_functions():
                owner._init_weights(initialized)  # noqa: SLF001
            unfilled = [name for name in missing if _is_unfilled(module._buffers[name])]  # noqa: SLF001
            if not unfilled:
                return
        kind = type(module).__name__
        raise UnsupportedModelError(
            f"{self.name} has {unfilled[0]} in a {kind}, which no file holds and transformers does not compute for one "
            "block alone: take a method without text"
        )

    def _initializations(self, module: nn.Module) -> "Iterator[tuple[PreTrainedModel, nn.Module]]":
        """Yield what may fill the buffers of a module: the models that it is part of, with what each initializes.

        The innermost model initializes the module, as transformers does. Some models fill buffers of their blocks when
        they are initialized themselves; values that a file holds are not changed by that.
        """
        from transformers import PreTrainedModel

        models = [part for part in self.model.modules() if isinstance(part, PreTrainedModel)]
        around = [part for part in reversed(models) if any(own is module for own in part.modules())]
        yield around[0], module
        yield from ((part, part) for part in around)


def _is_unfilled(buffer: torch.Tensor | None) -> bool:
    """Check whether a buffer still has the values by which unset ones are known."""
    return buffer is not None and buffer.is_floating_point() and bool(buffer.isnan().any())


def _empty(module: nn.Module) -> None:
    """Free a module's own parameters and buffers."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        module._parameters[name] = nn.Parameter(  # noqa: SLF001
            torch.empty_like(parameter, device="meta"), requires_grad=False
        )
    for name, buffer in list(module.named_buffers(recurse=False)):
        module._buffers[name] = torch.empty_like(buffer, device="meta")  # noqa: SLF001
