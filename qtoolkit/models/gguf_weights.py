"""Find the weights of a model in a `.gguf` file, each of which is expanded when it is read; experts one by one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qtoolkit.checkpoints.expanded_tensors import stored_bytes
from qtoolkit.checkpoints.gguf_architectures import Architecture, experts_of, kv_heads_of
from qtoolkit.checkpoints.gguf_header import TensorPlace
from qtoolkit.checkpoints.gguf_places import Place, order_of, places_of
from qtoolkit.checkpoints.gguf_tensors import GgufSource, GgufTensor, gguf_source, types_of
from qtoolkit.errors import CheckpointError
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.units import format_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What a config says too, or what is told where it does not.
_OF_ROPE = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def with_weights_of(
    checkpoint: Checkpoint, architecture: Architecture, places: Mapping[str, tuple[Path, TensorPlace]]
) -> Checkpoint:
    """Return a checkpoint whose weights are expanded one by one as they are read; named as in a folder of the model.

    Args:
        checkpoint: of the file, without tensors; its config is of this architecture.
        architecture: where the file has each tensor.
        places: of the tensors by llama.cpp's names, each with the file that holds it.

    Raises:
        CheckpointError: the file holds none of the model's weights, or a stack with other experts than the config.
    """
    sources = {file: gguf_source(file) for file, _ in places.values()}
    tensors: dict[str, GgufTensor] = {}
    used = {*_OF_ROPE}
    for name, shape in _shapes_as_stored(checkpoint.skeleton).items():
        place = next(iter(places_of(name, architecture)), None)
        place = place and _place_in(place, places)
        if place is None or place.name not in places:
            continue  # found missing when the model is built
        file, found = places[place.name]
        used.add(place.name)
        tensors[name] = _tensor(checkpoint, architecture, sources[file], place, found, shape)
    if not tensors:
        raise CheckpointError(
            f"{checkpoint.name} holds no weight of a {checkpoint.config.model_type} model: name another file"
        )
    kinds = types_of(tensors.values())
    whole = sum(tensor.nbytes for tensor in tensors.values())
    note = (
        f"its weights are stored as {kinds}, {format_bytes(stored_bytes(tensors))}, and are expanded to bfloat16, "
        f"{format_bytes(whole)}, one by one as they are read: all figures compare with the expanded model"
    )
    others = ", ".join(sorted(places.keys() - used))
    left_out = [f"left out of the .gguf file, since transformers has no place for it: {others:.200}"] * bool(others)
    result = replace(checkpoint, tensors=tensors, expand=None, stored_as=kinds, _built=[])
    return result.with_notes(note, *left_out)


def _place_in(place: Place, places: Mapping[str, tuple[Path, TensorPlace]]) -> Place:
    """Return where a file has a tensor: old ones of Mixtral have "blk.0.ffn_up.3.weight" of expert 3, and no stacks."""
    alone = place.name.replace("_exps.", f".{place.expert}.")
    return place if place.expert is None or place.name in places or alone not in places else Place(alone)


def _shapes_as_stored(skeleton: "PreTrainedModel") -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's tensors by their names in its folder, where each expert is one of its own."""
    from transformers.core_model_loading import revert_weight_conversion

    tied = skeleton.all_tied_weights_keys
    state = {name: tensor for name, tensor in skeleton.state_dict().items() if name not in tied}
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(skeleton, state).items()}


def _tensor(
    checkpoint: Checkpoint,
    architecture: Architecture,
    source: GgufSource,
    place: Place,
    found: TensorPlace,
    shape: tuple[int, ...],
) -> GgufTensor:
    """Return one tensor of a model.

    Args:
        checkpoint, architecture: as for `with_weights_of`.
        source: the file.
        place: where the model's tensor goes.
        found: what the file has there.
        shape: the model's, which may have sizes of 1 that the file leaves out.
    """
    config = checkpoint.config
    if place.expert is not None and found.shape[0] != experts_of(config):
        raise CheckpointError(
            f"{source.file} has {found.shape[0]} experts in {place.name!r}, and its config {experts_of(config)}: get "
            "both again"
        )
    order = order_of(place.name, architecture, heads=config.num_attention_heads, kv_heads=kv_heads_of(config))
    tensor = source.tensor(place.name, found, checkpoint.dtype, order, place.expert)
    same = [size for size in shape if size != 1] == [size for size in tensor.shape if size != 1]
    return replace(tensor, shape=shape) if same else tensor
