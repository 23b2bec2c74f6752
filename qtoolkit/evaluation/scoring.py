"""Logits of windows of text, from whatever has them: a loaded model, one that is read block by block, or a function."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.models import Checkpoint
from qtoolkit.noted import Noted
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream import StreamedModel, fast_products
from qtoolkit.stream.samples import Samples, blocks_giving, first_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Predictor:
    """A model that is ready to predict the tokens of some windows.

    Attributes:
        name: what the user called it.
        logits: gives the logits [seq_len, vocabulary] of the window of this index.
        model: the transformers model where it is whole in memory; None elsewhere.
        notes: what was decided while it was loaded, one line each.
    """

    name: str
    logits: Callable[[int], torch.Tensor]
    model: "PreTrainedModel | None" = None
    notes: tuple[str, ...] = ()


class Scorer(Protocol):
    """Something that predicts tokens."""

    def open(self, tokens: torch.Tensor, on_progress: OnProgress) -> AbstractContextManager[Predictor]:
        """What predicts windows int64 [num_windows, seq_len], while it is entered."""


class LoadedScorer:
    """A model in memory: one of transformers, or anything whose `logits(input_ids)` gives [batch, seq_len, vocabulary].

    Args:
        name: what the user called it.
        model: the model.
    """

    def __init__(self, name: str, model: Any) -> None:
        self._name, self._model = name, model

    @contextmanager
    def open(self, tokens: torch.Tensor, on_progress: OnProgress) -> Iterator[Predictor]:
        """See `Scorer`."""
        model = self._model
        if not isinstance(model, nn.Module):
            yield Predictor(self._name, lambda index: model.logits(tokens[index : index + 1])[0])
            return
        with _at_rest(model):
            yield Predictor(self._name, partial(_logits_of, model, tokens), model)


class OpenedScorer:
    """A model that is loaded when it is wanted, and let go of afterwards.

    Args:
        name: what the user called it.
        load: loads it, whatever `LoadedScorer` takes.
    """

    def __init__(self, name: str, load: Callable[[], Noted[Any]]) -> None:
        self._name, self._load = name, load

    @contextmanager
    def open(self, tokens: torch.Tensor, on_progress: OnProgress) -> Iterator[Predictor]:
        """See `Scorer`."""
        on_progress(ProgressEvent("load", 0, 0, "bytes", self._name))
        try:
            loaded = self._load()
            with LoadedScorer(self._name, loaded.value).open(tokens, on_progress) as predictor:
                yield replace(predictor, notes=loaded.notes)
        finally:
            give_memory_back()


class StreamedScorer:
    """A model in full precision whose blocks are read one after the other, so that it is never whole in memory.

    All windows run through a block while it is there. What is kept of them is what the last block made, one vector a
    token, and the parts of the model that turn it into logits: exact, and a hundredth of what the logits would take.

    Args:
        checkpoint: the model.
        device: where it runs, "cpu" or "cuda:0".
        dtype: what it computes in; None for the checkpoint's own.
    """

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: torch.dtype | None = None) -> None:
        self._checkpoint, self._device, self._dtype = checkpoint, device, dtype or checkpoint.dtype

    @contextmanager
    def open(self, tokens: torch.Tensor, on_progress: OnProgress) -> Iterator[Predictor]:
        """See `Scorer`."""
        streamed = StreamedModel(self._checkpoint, device=self._device, dtype=self._dtype)
        samples = _run_blocks(streamed, tokens, on_progress)
        chosen = 0

        def hidden() -> torch.Tensor:
            return samples.hidden[chosen].to(streamed.device)

        def logits(index: int) -> torch.Tensor:
            nonlocal chosen
            chosen = index
            return _logits_of(model, tokens, index)

        ends = streamed.outside(with_head=True)
        with ends as model, blocks_giving(streamed, hidden, as_tuple=samples.gives_tuple):
            yield Predictor(self._checkpoint.name, logits)


def _run_blocks(streamed: StreamedModel, tokens: torch.Tensor, on_progress: OnProgress) -> Samples:
    """What the last block makes of each window: hidden states [1, seq_len, hidden] each, on the CPU."""
    samples = first_inputs(streamed, tokens, 1)
    for index in range(len(streamed.blocks)):
        products = fast_products(streamed.device, streamed.dtype)
        with streamed.block(index) as module, torch.no_grad(), products:
            for place, call in enumerate(samples.calls(index, module, streamed.device)):
                samples.hidden[place] = call().to("cpu")
        samples.arguments[index] = {}
        on_progress(ProgressEvent("evaluate", index + 1, len(streamed.blocks), "blocks", streamed.name))
    return samples


def _logits_of(model: Any, tokens: torch.Tensor, index: int) -> torch.Tensor:
    weight = model.get_input_embeddings().weight
    device = weight.device
    with torch.no_grad(), fast_products(device, weight.dtype):
        logits: torch.Tensor = model(input_ids=tokens[index : index + 1].to(device), use_cache=False).logits[0]
    return logits


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """A model without dropout; put back as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
