"""Repair a quantized model: compute an adapter block by block, save it, and measure the model without and with it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.adapters.adapter_folder import ADAPTER_WEIGHTS, write_adapter
from qtoolkit.adapters.applied import multiplied_weight, with_adapter
from qtoolkit.adapters.base_names import own_name
from qtoolkit.adapters.repaired_blocks import RepairBlocks
from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.evaluation.scoring import LoadedScorer, StreamedScorer
from qtoolkit.evaluation.token_losses import measure_quality
from qtoolkit.files import path_of
from qtoolkit.formats import quiet_layers
from qtoolkit.jobs.checkpoint_loading import load_quantized
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.evaluating import Opened, check_overlap, cut_windows, with_origin
from qtoolkit.kernels import QuantizedLinear, stored_bytes
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.measure.guard import explained, guarded
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.output_checks import refuse_own_source
from qtoolkit.models.structure import is_linear, is_transposed
from qtoolkit.planning.device import adapt_dtype, resolve_device
from qtoolkit.quantized import QuantizedModel
from qtoolkit.quantized_file import QuantizedFile
from qtoolkit.records import OnProgress, QualityReport, Repair
from qtoolkit.requests import EvaluateRequest, ModelSource, RepairRequest
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.journal import Journal
from qtoolkit.stream.loading import calibration_dtype
from qtoolkit.stream.run import quantize_blocks
from qtoolkit.stream.staging import check_output, staged
from qtoolkit.texts.calibration_sources import check_calibration
from qtoolkit.texts.calibration_text import Calibration, read_calibration
from qtoolkit.texts.overlap import sketch
from qtoolkit.texts.texts import check_texts, is_self
from qtoolkit.texts.windows import Windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LESS = "give fewer num_samples, or a smaller seq_len"


@explained("repairing", _LESS)
def run_repair(request: RepairRequest) -> Repair:
    """Repair a model, as `qtoolkit.repair` describes."""
    started = time.monotonic()
    check_texts(request.text, "text")
    if is_self(request.calibration) or is_self(request.text):
        raise ConfigError("a repair reads texts that are there, and 'self' is written by a model: give another text")
    check_calibration(request.calibration, None)
    device = resolve_device(request.device)
    on_progress = guarded(request.report, "the repair", _LESS)
    folder = path_of(request.output, "output")
    check_output(folder, overwrite=request.overwrite)
    base = adapt_dtype(open_source(request.base, ModelSource(token=request.token), expands=True), device)
    quantized = _open_quantized(request, device)
    refuse_own_source(quantized.report.source.path or quantized.report.source.name, folder)
    pair = _pair(quantized.model, base, request.rank, device)
    text = read_calibration(
        base,
        request.calibration,
        num_samples=request.num_samples,
        seq_len=request.seq_len,
        on_progress=on_progress,
    )
    windows = _windows(request, quantized, base, text=text, device=device, on_progress=on_progress)
    with staged(folder, overwrite=request.overwrite) as partial:
        tensors = _matrices(pair, text, rank=request.rank, device=device, dtype=base.dtype, on_progress=on_progress)
        source = quantized.report.source
        write_adapter(
            partial,
            tensors,
            rank=request.rank,
            base=own_name(source.name),
            revision=source.commit_hash,
            transposed=pair.transposed,
        )
        reports = _measure(quantized, base, windows, tensors=tensors, device=device, on_progress=on_progress)
    size = (folder / ADAPTER_WEIGHTS).stat().st_size
    return Repair(
        model=source.name,
        base=base.name,
        rank=request.rank,
        num_layers=len(pair.layers),
        calibration=text.name,
        num_samples=len(text.tokens),
        seq_len=text.tokens.shape[1],
        before=reports[0],
        after=reports[1],
        weight_bits=8 * sum(map(_bytes_of, pair.layers.values())) / pair.num_weights,
        adapter_bits=8 * sum(tensor.nbytes for tensor in tensors.values()) / pair.num_weights,
        adapter_bytes=size,
        notes=(*base.notes, *quantized.report.notes, *text.notes, *pair.notes),
        path=str(folder),
        seconds=time.monotonic() - started,
    )


def _open_quantized(request: RepairRequest, device: str) -> QuantizedModel:
    """Load the model that is repaired.

    Raises:
        UnsupportedModelError: it is not quantized, or is a file of another program.
    """
    model = request.model
    if not isinstance(model, QuantizedModel):
        source = ModelSource(revision=request.revision, token=request.token)
        checkpoint = adapt_dtype(open_source(model, source, quantized=True), device)
        if checkpoint.quantization is None:
            raise UnsupportedModelError(f"{checkpoint.name} is not quantized: there is nothing to repair")
        model = load_quantized(checkpoint, device)
    if isinstance(model, QuantizedFile):
        raise UnsupportedModelError(f"{model.name} is a file of another program: give a folder that qt.load reads")
    return model


@dataclass(frozen=True)
class _Pair:
    """A quantized model and its base.

    Attributes:
        streamed: the base.
        layers: the quantized layers in the blocks by their full names.
        num_weights: of these layers.
        transposed: whether the base holds weights as [in, out].
        notes: what is left out.
    """

    streamed: StreamedModel
    layers: Mapping[str, Any]
    num_weights: int
    transposed: bool
    notes: tuple[str, ...]


def _pair(model: "PreTrainedModel", base: Checkpoint, rank: int, device: str) -> _Pair:
    """Find the layers of a quantized model that have a weight in the base.

    Raises:
        ConfigError: the base is another model, or the rank is larger than a layer.
        UnsupportedModelError: no layer in the blocks is quantized.
    """
    streamed = StreamedModel(base, device=device, dtype=calibration_dtype(device, base.dtype), quantized=())
    blocks = tuple(f"{name}." for name in streamed.block_names)
    found = {name: module for name, module in model.named_modules() if name.startswith(blocks)}
    linear = {name: one for name, one in streamed.model.named_modules() if name.startswith(blocks) and is_linear(one)}
    missing = [name for name in linear if name not in found]
    if missing or type(model).__name__ != type(streamed.model).__name__:
        what = f"has no {missing[0]}" if missing else f"is a {type(model).__name__}"
        raise ConfigError(f"the quantized model {what}, unlike {base.name}: give what it was made from as base")
    layers = {name: found[name] for name in linear if not is_linear(found[name])}
    if not layers:
        raise UnsupportedModelError(f"no linear layer in the blocks of {base.name} is quantized: nothing to repair")
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
    smallest = min(shapes, key=lambda name: min(shapes[name]))
    if rank > min(shapes[smallest]):
        out, inputs = shapes[smallest]
        raise ConfigError(f"rank={rank} is larger than {smallest} ({out} x {inputs}): give at most {min(out, inputs)}")
    left = len(linear) - len(layers)
    return _Pair(
        streamed,
        layers,
        sum(out * inputs for out, inputs in shapes.values()),
        transposed=any(is_transposed(one) for one in linear.values()),
        notes=(f"{left} linear layers in the blocks are not quantized, and get no adapter",) if left else (),
    )


def _bytes_of(layer: Any) -> int:
    """Return the bytes of a quantized layer's weight, as a file stores it where that is known."""
    return stored_bytes(layer.stored) if isinstance(layer, QuantizedLinear) else memory_footprint(layer)


def _windows(
    request: RepairRequest,
    quantized: QuantizedModel,
    base: Checkpoint,
    *,
    text: Calibration,
    device: str,
    on_progress: OnProgress,
) -> Windows:
    """Cut the text that is measured into windows.

    Raises:
        ConfigError: it holds text that the model, or its adapter, is calibrated on.
    """
    asked = EvaluateRequest(
        model=request.model,
        text=request.text,
        seq_len=request.seq_len,
        num_tokens=request.num_tokens,
        token=request.token,
    )
    opened = Opened(StreamedScorer(base, device), base.tokenizer, base.config, passages=sketch(text.tokens))
    windows = check_overlap(cut_windows(asked, opened, device=device, on_progress=on_progress), opened)
    calibration = quantized.report.calibration or (quantized.receipt.calibration if quantized.receipt else None)
    return check_overlap(windows, replace(opened, passages=calibration.sketch if calibration else ()))


def _matrices(
    pair: _Pair, text: Calibration, *, rank: int, device: str, dtype: torch.dtype, on_progress: OnProgress
) -> dict[str, torch.Tensor]:
    """Return the matrices of all layers by their full names, on the CPU."""

    def quantized(name: str) -> torch.Tensor:
        return multiplied_weight(pair.layers[name])

    names = pair.streamed.names_by_block([*pair.layers])
    method = RepairBlocks(quantized, rank, device, dtype)
    with quiet_layers():
        done = quantize_blocks(pair.streamed, names, text.tokens, method, Journal(None, {}), on_progress, {})
    return {name: tensor[...] for block in done for name, tensor in block.tensors.items()}


def _measure(
    quantized: QuantizedModel,
    base: Checkpoint,
    windows: Windows,
    *,
    tensors: Mapping[str, torch.Tensor],
    device: str,
    on_progress: OnProgress,
) -> tuple[QualityReport, QualityReport]:
    """Measure a model against its base, without and with its adapter."""
    receipt = quantized.receipt
    fingerprint = receipt.weights_fingerprint if receipt else None
    scorer = LoadedScorer(quantized.name, quantized.model)
    opened = Opened(scorer, quantized.tokenizer, weights_fingerprint=fingerprint)
    with (
        StreamedScorer(base, device).open(windows.tokens, on_progress) as expected,
        scorer.open(windows.tokens, on_progress) as predictor,
        quiet_layers(),
    ):
        before = measure_quality(windows, predictor, expected, on_progress)
        with with_adapter(quantized.model, tensors):
            after = measure_quality(windows, predictor, expected, on_progress)
    return with_origin(before, opened, base, device), with_origin(after, opened, base, device)
