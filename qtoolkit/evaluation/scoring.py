"""Compute logits of windows of text with a loaded model, one read block by block, or any object with `logits`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.eval_mode import eval_mode
from qtoolkit.noted import Noted
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.products import fast_products
from qtoolkit.stream.samples import Samples, blocks_giving, first_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Predictor:
    """Hold a model that is ready to predict the tokens of some windows.

    Attributes:
        name: the user's name for it.
        logits: returns the logits [seq_len, vocabulary] of the window with an index.
        model: the transformers model if all of it is in memory; otherwise None.
        notes: what was decided while it was loaded, one line each.
    """

    name: str
    logits: Callable[[int], torch.Tensor]
    model: "PreTrainedModel | None" = None
    notes: tuple[str, ...] = ()


class Scorer(Protocol):
    """Open a model to predict tokens; implemented by `LoadedScorer`, `OpenedScorer` and `StreamedScorer`."""

    @property
    def name(self) -> str:
        """Return the user's name for the model."""

    def open(self, tokens: torch.Tensor, on_progress: OnProgress) -> AbstractContextManager[Predictor]:
        """Return a context manager that gives the predictor of windows int64 [num_windows, seq_len]."""


@dataclass(frozen=True)
class LoadedScorer:
    """Score with a model in memory.

    Attributes:
        name: the user's name for it.
        model: one of transformers, or any object whose `logits(input_ids)` returns [batch, seq_len, vocabulary].
    """

    name: str
    model: Any

    @contextmanager
    def open(self, tokens: torch.Tensor, on_progress: OnProgress) -> Iterator[Predictor]:
        """Open the model, as `Scorer.open` describes."""
        model = self.model
        if not isinstance(model, nn.Module):
            yield Predictor(self.name, lambda index: model.logits(tokens[index : index + 1])[0])
            return
        with eval_mode(model):
            yield Predictor(self.name, partial(_logits_of, model, tokens), model)


@dataclass(frozen=True)
class OpenedScorer:
    """Score with a model that is loaded for it, and freed afterwards.

    Attributes:
        name: the user's name for it.
        load: loads it; returns a model that `LoadedScorer` takes.
    """

    name: str
    load: Callable[[], Noted[Any]]

    @contextmanager
    def open(self, tokens: torch.Tensor, on_progress: OnProgress) -> Iterator[Predictor]:
        """Open the model, as `Scorer.open` describes."""
        on_progress(ProgressEvent("load", 0, 0, "bytes", self.name))
        try:
            loaded = self.load()
            with LoadedScorer(self.name, loaded.value).open(tokens, on_progress) as predictor:
                yield replace(predictor, notes=loaded.notes)
        finally:
            give_memory_back()


@dataclass(frozen=True)
class StreamedScorer:
    """Score with a model in full precision whose blocks are read one after the other, never all at once.

    All windows run through a block while it is in memory. Between blocks, memory holds one hidden state per token; in
    the end also the parts of the model that turn these into logits: exact, in a hundredth of the memory of the logits.

    Attributes:
        checkpoint: the model.
        device: where it runs, "cpu" or "cuda:0".
        dtype: what it computes in; None for the checkpoint's own.
    """

    checkpoint: Checkpoint
    device: str
    dtype: torch.dtype | None = None

    @property
    def name(self) -> str:
        """See `Scorer`."""
        return self.checkpoint.name

    @contextmanager
    def open(self, tokens: torch.Tensor, on_progress: OnProgress) -> Iterator[Predictor]:
        """Open the model, as `Scorer.open` describes."""
        dtype = self.dtype or self.checkpoint.dtype
        streamed = StreamedModel(self.checkpoint, device=self.device, dtype=dtype)
        samples = _run_blocks(streamed, tokens, on_progress)
        chosen = 0

        def hidden() -> torch.Tensor:
            return samples.as_given(samples.hidden[chosen].to(streamed.device))

        def logits(index: int) -> torch.Tensor:
            nonlocal chosen
            chosen = index
            return _logits_of(model, tokens, index)

        ends = streamed.outside(with_head=True)
        with ends as model, blocks_giving(streamed, hidden, num_outputs=samples.num_outputs):
            yield Predictor(self.checkpoint.name, logits)


def _run_blocks(streamed: StreamedModel, tokens: torch.Tensor, on_progress: OnProgress) -> Samples:
    """Run all windows through all blocks, and return their hidden states [1, seq_len, hidden] each, on the CPU."""
    samples = first_inputs(streamed, tokens, 1)
    for index in range(len(streamed.blocks)):
        products = fast_products(streamed.device, streamed.dtype)
        with streamed.block(index) as module, torch.no_grad(), products:
            for window, call in enumerate(samples.calls(index, module, streamed.device)):
                samples.hidden[window] = call().to("cpu")
        samples.arguments.forget(index)
        on_progress(ProgressEvent("evaluate", index + 1, len(streamed.blocks), "blocks", streamed.name))
    return samples


def _logits_of(model: Any, tokens: torch.Tensor, index: int) -> torch.Tensor:
    weight = model.get_input_embeddings().weight
    device = weight.device
    with torch.no_grad(), fast_products(device, weight.dtype):
        logits: torch.Tensor = model(input_ids=tokens[index : index + 1].to(device), use_cache=False).logits[0]
    return logits
