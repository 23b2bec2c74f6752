"""Merge an adapter into the codes of a quantized model: rounded anew, or minima moved, and what is lost of it told."""

import copy
from dataclasses import dataclass, replace

import torch

from qtoolkit.adapters.adapter_reading import Adapter, Change
from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.files import path_of
from qtoolkit.jobs.merged_file import merge_into_file
from qtoolkit.jobs.merged_quality import opened_model, with_note, with_quality
from qtoolkit.kernels import QuantizedEmbedding, QuantizedLinear, with_change
from qtoolkit.planning.device import resolve_device
from qtoolkit.quantized import QuantizedModel
from qtoolkit.quantized_file import QuantizedFile
from qtoolkit.requests import MergeRequest
from qtoolkit.stream.staging import check_output


def merge_into_codes(request: MergeRequest, adapter: Adapter) -> QuantizedModel:
    """Return a quantized model whose weights have an adapter added as far as its format holds the sum.

    Raises:
        ConfigError: the adapter is one of other layers or shapes, or options that belong to quantizing anew.
        UnsupportedModelError: a layer whose codes are not changed.
    """
    if request.config is not None:
        raise ConfigError("into_codes=True keeps the scales of the codes, and config= makes new ones: give one of them")
    folder = None if request.output is None else path_of(request.output, "output")
    if folder is not None:
        check_output(folder, overwrite=request.overwrite)
    q = opened_model(request, resolve_device(request.device))
    if isinstance(q, QuantizedFile):
        return merge_into_file(request, q, adapter)
    layers = {name: _layer(q, adapter, name, change) for name, change in adapter.changes.items()}
    # The model of a session stays as it is.
    model = copy.deepcopy(q.model) if q is request.model else q.model
    losses = []
    for name, layer in layers.items():
        change = adapter.changes[name]
        merged = with_change(layer, change.product())
        losses.append(_loss(name, layer, merged, change))
        model.set_submodule(name, merged.prepare())
    merged_model = QuantizedModel(model, q.tokenizer, q.config, replace(q.report, path=None), q.receipt)
    with_note(merged_model, _told(adapter, losses))
    if folder is not None:
        merged_model.save(folder, overwrite=request.overwrite, on_progress=request.report)
    return with_quality(merged_model, request, adapter, total=None)


def _layer(q: QuantizedModel, adapter: Adapter, name: str, change: Change) -> QuantizedLinear:
    """Return the layer that a change belongs to.

    Raises:
        ConfigError: there is no such layer, or it has another shape.
        UnsupportedModelError: it is not one of integer codes.
    """
    module = dict(q.model.named_modules()).get(name)
    if module is None:
        raise ConfigError(
            f"adapter {adapter.name} changes {name}, which {q.name} has not: give an adapter of this model"
        )
    if not isinstance(module, QuantizedLinear) or isinstance(module, QuantizedEmbedding):
        raise UnsupportedModelError(
            f"{name} is a {type(module).__name__}, no layer of integer codes in groups: leave into_codes out"
        )
    if change.shape != (module.out_features, module.in_features):
        out, inputs = change.shape
        raise ConfigError(
            f"{name} is {out} x {inputs} in adapter {adapter.name} and {module.out_features} x {module.in_features} in "
            f"{q.name}: give an adapter of this model"
        )
    if change.rank > min(change.shape):
        raise ConfigError(
            f"adapter {adapter.name} has the rank {change.rank} for {name}, which is smaller: it is damaged"
        )
    return module


@dataclass(frozen=True)
class _Loss:
    """What merging has lost of the change of one layer.

    Attributes:
        name: of the layer.
        lost, wanted: the squares of what is missing and of the change, summed up.
        kept_codes: whether all codes are as they were.
        moved: the largest error of a weight.
    """

    name: str
    lost: float
    wanted: float
    kept_codes: bool
    moved: float


def _loss(name: str, before: QuantizedLinear, after: QuantizedLinear, change: Change) -> _Loss:
    wanted = change.product()
    missing = before.dequantize().cpu() + wanted - after.dequantize().cpu()
    # MLX calls its codes "weight"; where groups have minima, these alone may differ.
    old, new = (copy.copy(layer).get_buffer(layer.stored.packed_names[0]) for layer in (before, after))
    return _Loss(
        name,
        lost=missing.double().square().sum().item(),
        wanted=wanted.double().square().sum().item(),
        kept_codes=torch.equal(old.view(torch.uint8), new.view(torch.uint8)),
        moved=missing.abs().max().item(),
    )


def _told(adapter: Adapter, losses: list[_Loss]) -> str:
    """Return the note of a merge into codes."""
    share = sum(one.lost for one in losses) / (sum(one.wanted for one in losses) or 1.0)
    worst = max(losses, key=lambda one: one.lost / (one.wanted or 1.0))
    kept = sum(one.kept_codes for one in losses)
    codes = "no code was touched" if kept == len(losses) else f"codes were rounded anew in {len(losses) - kept} layers"
    return (
        f"the adapter {adapter.name} (sha256 {adapter.sha256[:12]}) was merged into the codes: {codes}; rounding loses "
        f"{share:.2g} of the change (squares, all layers), most {worst.lost / (worst.wanted or 1.0):.2g} in "
        f"{worst.name}, and moves weights by {max(one.moved for one in losses):.2g} at most"
    )
