"""Measure the logits of a model that was just written as one file, block by block: it is never whole in memory."""

from dataclasses import replace
from pathlib import Path

import torch

from qtoolkit.errors import JobCancelled, oneline
from qtoolkit.evaluation.scoring import StreamedScorer
from qtoolkit.formats import in_full_precision, quiet_layers
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.noted import Noted
from qtoolkit.publishing import probe_of, probe_tokens
from qtoolkit.records import OnProgress, Probe, ProgressEvent
from qtoolkit.requests import ModelSource


def probe_file(folder: Path, base: Checkpoint, *, device: str, on_progress: OnProgress) -> Noted[Probe | None]:
    """Return the logits of a file's model on a few tokens, as it is stored; None with a note where it does not run.

    Args:
        folder: holds the file, its config and its tokenizer.
        base: what the file was made of.
        device: where the model runs.
        on_progress: called for each block; it may raise `JobCancelled`.
    """
    try:
        opened = open_source(folder, ModelSource(tokenizer=base.tokenizer), quantized=True)
        return Noted(_probe(in_full_precision(opened), device, on_progress))
    except JobCancelled:
        raise
    except Exception as error:  # noqa: BLE001  # a model that does not run on this machine may raise anything
        return Noted(None, (f"its logits could not be measured, and no qt.verify can compare them: {oneline(error)}",))
    finally:
        give_memory_back()


def _probe(checkpoint: Checkpoint, device: str, on_progress: OnProgress) -> Probe:
    """Run a model on the tokens of a probe, block by block."""

    def report(event: ProgressEvent) -> None:
        on_progress(replace(event, phase="verify"))

    ids = probe_tokens(checkpoint.tokenizer, checkpoint.config.get_text_config().vocab_size)
    tokens = torch.tensor([ids])  # [1, tokens]
    with quiet_layers(), StreamedScorer(checkpoint, device).open(tokens, report) as predictor:
        return probe_of(predictor.logits(0).float(), ids, device)
