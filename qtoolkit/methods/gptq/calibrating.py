"""Begin a calibrated job: read its text, and find what an earlier run of it has done; and report on its layers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from qtoolkit.checkpoints.layer_values import largest
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods.gptq import GPTQ
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.records import CalibrationReport, LayerError, OnProgress, ignore_progress
from qtoolkit.stream.journal import DoneBlock, Journal, JournalLocation
from qtoolkit.stream.loading import calibration_dtype, load_streamed
from qtoolkit.texts.calibration_text import Calibration, bounded, make_calibration, read_calibration
from qtoolkit.texts.overlap import sketch
from qtoolkit.texts.self_calibration import self_calibration
from qtoolkit.texts.texts import is_self


@dataclass(frozen=True)
class Begun:
    """A calibrated job before its first block.

    Attributes:
        text: the tokens to calibrate on.
        journal: of finished blocks.
        dtype: the type in which blocks run.
        notes: what was decided, one line each.
    """

    text: Calibration
    journal: Journal
    dtype: torch.dtype
    notes: tuple[str, ...]


def begin(
    checkpoint: Checkpoint,
    config: GPTQ,
    options: Mapping[str, Any],
    layers: Mapping[str, str],
    *,
    device: str,
    location: JournalLocation | None,
    absent: Mapping[str, Any],
    on_progress: OnProgress,
) -> Begun:
    """Read the calibration text and open the journal.

    Args:
        checkpoint: the model in full precision.
        config: names the text and its length.
        options: all on which the codes depend, beside the model, its text and its layers.
        layers: how the codes of each layer are stored, "4" or "Q4_K", by its full name.
        device: where blocks run.
        location: of the journal; None for none.
        absent: options that were added later, each with what a journal without it means.
        on_progress: called while a text is read or written.

    Raises:
        QToolkitError: the text cannot be read, or the journal is of another job, which the message tells apart.
    """
    dtype = calibration_dtype(device, checkpoint.dtype)
    slow = f"calibrated in {dtype}, since {checkpoint.dtype} is slow or missing on this processor"
    text = None if is_self(config.calibration) else _read_text(checkpoint, config, on_progress)
    inputs = {
        **options,
        "commit_hash": checkpoint.commit_hash,
        "weights": checkpoint.fingerprint(),
        "calibration text": text.fingerprint if text else "written by the model",
        # In order and with each layer's bits: rules compare equal as a dict whatever their order.
        "layers": hashlib.sha256("\n".join(f"{name} {kind}" for name, kind in layers.items()).encode()).hexdigest(),
        "dtype": str(dtype),
    }
    journal = Journal(location, inputs, absent=absent)
    text = text or _written_text(checkpoint, config, journal, device, dtype, on_progress)
    return Begun(text, journal, dtype, (slow,) if dtype != checkpoint.dtype else ())


def report_of(
    begun: Begun, blocks: Sequence[DoneBlock], *, damp_percent: float, perplexity: float | None
) -> CalibrationReport:
    """Return the report on a calibration.

    Args:
        begun: the job.
        blocks: all that were quantized.
        damp_percent: that was asked for.
        perplexity: of the result on some of the tokens; None if it was not measured.
    """
    tokens = begun.text.tokens
    return CalibrationReport(
        text=begun.text.name,
        num_samples=len(tokens),
        seq_len=tokens.shape[1],
        perplexity=perplexity,
        damp_percent=damp_percent,
        layers=tuple(LayerError(name, **facts) for block in blocks for name, facts in block.facts.items()),
        resumed=begun.journal.resumed,
        sketch=sketch(tokens),
        fingerprint=begun.text.fingerprint,
        text_check=begun.text.checked,
    )


def _read_text(checkpoint: Checkpoint, config: GPTQ, on_progress: OnProgress) -> Calibration:
    """Return the tokens of the calibration text that the config names."""
    text = read_calibration(
        checkpoint,
        config.calibration,
        num_samples=config.num_samples,
        seq_len=config.seq_len,
        column=config.calibration_column,
        on_progress=on_progress,
    )
    give_memory_back()
    return text


def _written_text(
    checkpoint: Checkpoint, config: GPTQ, journal: Journal, device: str, dtype: torch.dtype, on_progress: OnProgress
) -> Calibration:
    """Return text that the model writes, from the journal if it has some.

    The journal stores it because another number of threads would give another text.
    """
    limits = checkpoint.config.get_text_config(decoder=True)
    length, _ = bounded(config.seq_len, largest(limits, "max_position_embeddings"))

    def fits(tokens: StoredTensor | torch.Tensor) -> bool:
        if (tuple(tokens.shape), tokens.dtype) != ((config.num_samples, length), torch.int64):
            return False
        values = tokens[...]
        return bool(((values >= 0) & (values < limits.vocab_size)).all())

    tokens = journal.read_tokens(fits)
    if tokens is not None:
        return make_calibration(tokens, "self", ["calibrated with what the model wrote when the job was begun"])
    # The only step that needs the whole model in memory in full precision.
    model = load_streamed(replace(checkpoint, dtype=dtype), None, device=device, on_progress=ignore_progress).value
    text = self_calibration(
        model, checkpoint.tokenizer, num_samples=config.num_samples, seq_len=config.seq_len, on_progress=on_progress
    )
    journal.write_tokens(text.tokens)
    return text
