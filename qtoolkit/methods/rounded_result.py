"""Store layers that were rounded one by one in a format of other programs: tensors, and the config of the model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.formats import Grid, Layer
from qtoolkit.methods.weight_only import LinearLayers, LinearMethod
from qtoolkit.models.experts import experts_in_one_tensor, modules_apart
from qtoolkit.models.experts_apart import are_of_experts, named_as_saved
from qtoolkit.models.renaming import matrices_in_file
from qtoolkit.models.structure import is_linear
from qtoolkit.records import Plan

if TYPE_CHECKING:
    from qtoolkit.formats.stored_layer import GroupedTensors
    from qtoolkit.models.checkpoint import Checkpoint


def result_config(checkpoint: "Checkpoint", method: LinearMethod, config: Any, plan: Plan) -> Any:
    """Return transformers' quantization config that rounds the layers of a plan as they are read.

    Args:
        checkpoint: the model in full precision.
        method: the method.
        config: the method's, with `stored_as`, the format, `grid` of a layer, and `embeddings`.
        plan: of the model.
    """
    planned = {layer.name for layer in plan.layers}
    apart = are_of_experts(checkpoint.skeleton, planned)
    tensors: Mapping[str, Any] = checkpoint.tensors
    if checkpoint.expand:
        # A file whose tensors cannot be read one by one is saved by the names of the model, experts aside.
        tensors = checkpoint.skeleton.state_dict()
        tensors = named_as_saved(checkpoint.skeleton, tensors) if apart else tensors
    named = matrices_in_file(checkpoint.skeleton, tensors, experts_apart=apart)
    modules = dict(checkpoint.skeleton.named_modules())
    modules |= dict(modules_apart(checkpoint.skeleton)) if apart else {}
    own, embeddings = _embeddings(checkpoint, config, planned, named)
    # Some readers look for a layer by its name in the file, others by that in the model.
    looked_up = {name for name, module in modules.items() if isinstance(module, torch.nn.Embedding)}
    left = {stored: name for stored, name in named.items() if name not in planned | looked_up | embeddings.keys()}
    grids = {
        stored: config.of(name).grid(Layer.of(name, modules[name], plan.device))
        for stored, name in named.items()
        if name in planned and name not in own
    }
    layers = LinearLayers(method, config, own)
    origin = {"method": method.name, "options": config.to_file()}
    # A file may hold several layers of the model as one: the tower of Kimi K2.5.
    fused = {name for name, module in modules.items() if is_linear(module)} - planned - {*named.values()}
    ignored = {*left, *left.values(), *fused, *experts_in_one_tensor(checkpoint.skeleton, planned)}
    return config.stored_as.rounding_config(layers, sorted(planned), grids, ignored, origin, embeddings)


def without_tied(checkpoint: "Checkpoint") -> "Checkpoint":
    """Return a checkpoint without the weights that are tied to others, which it may hold twice."""
    tied = checkpoint.skeleton.all_tied_weights_keys

    def without(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tensor for name, tensor in tensors.items() if name not in tied}

    expand = checkpoint.expand
    return replace(
        checkpoint,
        tensors=without(checkpoint.tensors),
        expand=None if expand is None else lambda: without(expand()),
    )


def _embeddings(
    checkpoint: "Checkpoint", config: Any, planned: set[str], named: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Grid]]:
    """Return the configs of the quantized embeddings by their names in the model, and their grids by those for files.

    An output head that is tied to the token embedding has its grid, and its name in the model.
    """
    from qtoolkit.models.structure import output_head, token_embedding

    if config.embeddings is None:
        return {}, {}
    skeleton = checkpoint.skeleton
    own: dict[str, Any] = {}
    grids: dict[str, Grid] = {}
    in_file = dict(zip(named.values(), named, strict=True))
    for name in planned & {token_embedding(skeleton) or "", output_head(skeleton) or ""}:
        width = skeleton.get_submodule(name).weight.shape[1]
        own[name] = config.for_embeddings(width)
        tied = skeleton.all_tied_weights_keys.items()
        heads = [target.removesuffix(".weight") for target, source in tied if source == f"{name}.weight"]
        grid = Grid(own[name].bits, own[name].group_size, sym=True)
        grids.update(dict.fromkeys((in_file.get(name, name), *heads), grid))
    return own, grids


def grouped_tensors(
    tensors: "GroupedTensors", codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Return the tensors that store the codes of `round_weight`, made unsigned.

    Args:
        tensors: how they are stored.
        codes: int8 [out, in].
        scale: [1, 1] or [out * groups, 1].
        zero_point: int8 of the same shape; None when symmetric.
    """
    out_features, in_features = codes.shape
    middle = 2 ** (tensors.bits - 1)
    if zero_point is None:
        zero_point = torch.zeros_like(scale, dtype=torch.int8)
    groups = torch.arange(in_features) // tensors.inputs_per_scale
    count = in_features // tensors.inputs_per_scale
    # [1, 1] or [out * groups, 1] -> [out or 1, groups] -> [groups, out]; one of a row serves for all its groups.
    rows = 1 if scale.numel() == 1 else out_features
    shaped = (one.view(rows, -1) for one in (scale, zero_point))
    scale, zero_point = (one.expand(out_features, count).T for one in shaped)
    # As bytes, without a copy in a wider type; int8 [out, in] -> uint8 [in, out].
    unsigned = codes.view(torch.uint8).bitwise_xor_(128) if middle == 128 else codes.add_(middle).view(torch.uint8)
    return tensors.store(unsigned.T, scale, zero_point.to(torch.int16) + middle, groups)
