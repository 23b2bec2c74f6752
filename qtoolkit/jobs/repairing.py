"""Repair a quantized model: compute an adapter block by block, save it, and measure the model without and with it."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qtoolkit.adapters.adapter_folder import ADAPTER_WEIGHTS, write_adapter
from qtoolkit.adapters.adapter_reading import read_adapter
from qtoolkit.adapters.adapter_receipts import entries_of, weight_files_of, write_adapter_receipt
from qtoolkit.adapters.applied import with_adapter
from qtoolkit.adapters.base_names import own_name
from qtoolkit.adapters.rank_choice import choose_ranks, measure_ranks
from qtoolkit.adapters.repaired_blocks import RepairBlocks, scaling_of
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import ConfigError
from qtoolkit.evaluation.scoring import LoadedScorer, StreamedScorer
from qtoolkit.evaluation.token_losses import measure_quality
from qtoolkit.files import path_of
from qtoolkit.formats import quiet_layers
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.evaluating import Opened, check_overlap, cut_windows, with_origin
from qtoolkit.jobs.repaired_models import Pair, Repaired, open_repaired, pair_of
from qtoolkit.measure.guard import explained, guarded
from qtoolkit.measure.host import hardware, versions
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.output_checks import refuse_own_source
from qtoolkit.planning.device import adapt_dtype, resolve_device
from qtoolkit.publishing import measure_probe
from qtoolkit.quantized import QuantizedModel
from qtoolkit.records import AdapterReceipt, OnProgress, Probe, QualityReport, Repair
from qtoolkit.requests import EvaluateRequest, ModelSource, RepairRequest
from qtoolkit.stream.journal import Journal, JournalLocation
from qtoolkit.stream.run import quantize_blocks
from qtoolkit.stream.staging import check_output, journal_of, staged
from qtoolkit.texts.calibration_sources import check_calibration
from qtoolkit.texts.calibration_text import Calibration, read_calibration
from qtoolkit.texts.overlap import sketch
from qtoolkit.texts.texts import check_texts, is_self
from qtoolkit.texts.windows import Windows

_LESS = "give fewer num_samples, or a smaller seq_len; blocks that are done are kept, and the same call goes on"


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
    model = request.model.path if isinstance(request.model, QuantizedModel) else request.model
    for source in (model, request.base):
        refuse_own_source(source, folder)
    base = adapt_dtype(open_source(request.base, ModelSource(token=request.token), expands=True), device)
    repaired = open_repaired(request.model, ModelSource(revision=request.revision, token=request.token), device)
    pair = pair_of(repaired, base, request.rank if request.target_size is None else None, device)
    text = read_calibration(
        base,
        request.calibration,
        num_samples=request.num_samples,
        seq_len=request.seq_len,
        on_progress=on_progress,
    )
    windows = _windows(request, repaired, base, text=text, device=device, on_progress=on_progress)
    with staged(folder, overwrite=request.overwrite, resume=request.resume) as partial_folder:
        journal = _journal(request, folder, repaired, base, pair=pair, text=text)
        dtype = torch.float8_e4m3fn if request.in_8_bits else base.dtype
        ranks = _ranks(request, repaired, pair, text, dtype=dtype, journal=journal, on_progress=on_progress)
        method = RepairBlocks(repaired.weight, ranks, device, dtype)
        tensors = _matrices(pair, text, method, journal=journal, on_progress=on_progress)
        give_memory_back()
        scaling = scaling_of(dtype)
        _save(partial_folder, tensors, repaired, name=folder.name, scaling=scaling, transposed=pair.transposed)
        measured = _measure(
            repaired, base, windows, tensors=tensors, scaling=scaling, device=device, on_progress=on_progress
        )
        notes = (f"left as it is: {pair.left}",) if pair.left else ()
        result = Repair(
            model=repaired.name,
            base=base.name,
            rank=max(ranks.values()),
            num_layers=sum(map(bool, ranks.values())),
            calibration=text.name,
            num_samples=len(text.tokens),
            seq_len=text.tokens.shape[1],
            before=measured.before,
            after=measured.after,
            weight_bits=8 * pair.weight_bytes / pair.num_weights,
            adapter_bits=8 * sum(tensor.nbytes for tensor in tensors.values()) / pair.num_weights,
            adapter_bytes=(partial_folder / ADAPTER_WEIGHTS).stat().st_size,
            notes=(*base.notes, *repaired.notes, *text.notes, *journal.notes, *notes),
            path=str(folder),
            seconds=time.monotonic() - started,
            left=pair.left,
            least_rank=min(ranks.values()),
            resumed=journal.resumed,
        )
        _write_receipt(partial_folder, result, repaired, base, measured=measured, device=device)
    return result


def _save(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    repaired: Repaired,
    *,
    name: str,
    scaling: float,
    transposed: bool,
) -> None:
    """Write the adapter as peft does, and beside it as the program of the model's file reads it, where there is one."""
    base = own_name(repaired.name)
    write_adapter(folder, tensors, base=base, revision=repaired.commit_hash, scaling=scaling, transposed=transposed)
    if repaired.format is not None:
        repaired.format.write_adapter(
            folder / f"adapter{repaired.format.suffix}",
            read_adapter(folder).changes,
            config=repaired.model.config,
            name=name,
            in_8_bits=scaling != 1,
        )


def _journal(
    request: RepairRequest, folder: Path, repaired: Repaired, base: Checkpoint, *, pair: Pair, text: Calibration
) -> Journal:
    """Open the journal of blocks that are done; there is none for a model that stands in memory alone.

    Raises:
        OutputError: it is that of another call.
    """
    if not request.resume or repaired.path is None:
        return Journal(None, {})
    weights = [(file.name, entry.sha256) for file, entry in zip(*_files(repaired.path), strict=True)]
    recipe = {
        "job": "repair",
        "rank": None if request.target_size is not None else request.rank,
        "target_size": request.target_bytes,
        "in_8_bits": request.in_8_bits,
        "model": hashlib.sha256(json.dumps(weights).encode()).hexdigest(),
        "base": base.fingerprint(),
        "calibration text": text.fingerprint,
        "layers": hashlib.sha256("\n".join(pair.shapes).encode()).hexdigest(),
        "dtype": str(pair.streamed.dtype),
    }
    return Journal(JournalLocation(journal_of(folder)), recipe)


def _files(path: Path) -> tuple[list[Path], list[Any]]:
    """Return the weight files of a saved model, and the entry of each in a receipt."""
    files = [*weight_files_of(path)]
    return files, [*entries_of(files).values()]


def _ranks(
    request: RepairRequest,
    repaired: Repaired,
    pair: Pair,
    text: Calibration,
    *,
    dtype: torch.dtype,
    journal: Journal,
    on_progress: OnProgress,
) -> dict[str, int]:
    """Return the rank of each layer: that of the request, or by what each gives back, from the journal if it has that.

    Raises:
        ConfigError: the bytes have no room for an adapter.
    """
    target = request.target_bytes
    if target is None:
        return dict.fromkeys(pair.shapes, request.rank)
    most = {name: min(shape) for name, shape in pair.shapes.items()}
    known = journal.read_token_weights(lambda tensors, _: _are_gains(tensors, most))
    if known is not None:
        gains = {name: tensor[...] for name, tensor in known.tensors.items()}
    else:
        layers = pair.streamed.names_by_block([*pair.shapes])
        with quiet_layers():
            gains = measure_ranks(pair.streamed, layers, repaired.weight, text.tokens, on_progress)
        journal.write_token_weights(gains, {})
    return choose_ranks(gains, pair.shapes, target=target, itemsize=dtype.itemsize)


def _are_gains(tensors: Mapping[str, StoredTensor | torch.Tensor], most: Mapping[str, int]) -> bool:
    """Check whether a journal's tensors are what the ranks of these layers give back."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return shapes == {name: (rank,) for name, rank in most.items()}


def _windows(
    request: RepairRequest,
    repaired: Repaired,
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
    return check_overlap(windows, replace(opened, passages=repaired.calibrated_on))


def _matrices(
    pair: Pair, text: Calibration, method: RepairBlocks, *, journal: Journal, on_progress: OnProgress
) -> dict[str, torch.Tensor]:
    """Return the matrices of all layers by their full names, on the CPU."""
    names = pair.streamed.names_by_block([*pair.shapes])
    with quiet_layers():
        done = quantize_blocks(pair.streamed, names, text.tokens, method, journal, on_progress, {})
    return {name: tensor[...] for block in done for name, tensor in block.tensors.items()}


class _Measured(NamedTuple):
    """What a model does without and with its adapter."""

    before: QualityReport
    after: QualityReport
    probe_before: Probe
    probe: Probe


def _measure(
    repaired: Repaired,
    base: Checkpoint,
    windows: Windows,
    *,
    tensors: Mapping[str, torch.Tensor],
    scaling: float,
    device: str,
    on_progress: OnProgress,
) -> _Measured:
    """Measure a model against its base, without and with its adapter."""
    fingerprint = repaired.receipt.weights_fingerprint if repaired.receipt else None
    scorer = LoadedScorer(repaired.name, repaired.model)
    opened = Opened(scorer, repaired.tokenizer, weights_fingerprint=fingerprint)
    probe = partial(measure_probe, repaired.model, repaired.tokenizer or base.tokenizer)
    with (
        StreamedScorer(base, device).open(windows.tokens, on_progress) as expected,
        scorer.open(windows.tokens, on_progress) as predictor,
        quiet_layers(),
    ):
        before, probe_before = measure_quality(windows, predictor, expected, on_progress), probe()
        with with_adapter(repaired.model, tensors, scaling=scaling):
            after, probe_after = measure_quality(windows, predictor, expected, on_progress), probe()
    return _Measured(
        with_origin(before, opened, base, device), with_origin(after, opened, base, device), probe_before, probe_after
    )


def _write_receipt(
    folder: Path, result: Repair, repaired: Repaired, base: Checkpoint, *, measured: _Measured, device: str
) -> None:
    """Write beside an adapter which model it belongs to and what it does, without any path of this machine."""

    def public(report: QualityReport) -> QualityReport:
        named = own_name(report.base) if report.base else None
        return replace(report, model=own_name(report.model), base=named, text=own_name(report.text))

    told = replace(
        result,
        model=own_name(result.model),
        base=own_name(result.base),
        calibration=own_name(result.calibration),
        before=public(measured.before),
        after=public(measured.after),
        notes=(),
        path="",
    )
    receipt = AdapterReceipt(
        told,
        repaired.commit_hash,
        base_files=entries_of(weight_files_of(repaired.path)) if repaired.path else {},
        files=entries_of(sorted(folder.iterdir())),
        probe_before=measured.probe_before,
        probe=measured.probe,
        license=base.license,
        gated=base.gated,
        versions=versions(),
        hardware=hardware(device),
    )
    write_adapter_receipt(folder, receipt)
