"""Measure how fast a model reads a prompt and generates tokens after it, and continue a text."""

import time
import warnings
from statistics import median
from typing import Any

import torch

from qtoolkit.errors import ConfigError
from qtoolkit.evaluation.graph_generation import generate_by_graph, takes_graph
from qtoolkit.records import OnProgress, ProgressEvent, SpeedReport
from qtoolkit.stream.products import fast_products


def measure_generation(
    model: Any, prompt: torch.Tensor, *, new_tokens: int, num_runs: int, on_progress: OnProgress
) -> SpeedReport:
    """Time a model's own `generate` with greedy decoding, after a short run to warm up.

    Args:
        model: a transformers model.
        prompt: int64 [tokens].
        new_tokens: tokens to generate, at least 2; an end-of-text token does not stop it.
        num_runs: runs to measure, besides the one to warm up.
        on_progress: called after each run.
    """
    weight = model.get_input_embeddings().weight
    device = weight.device
    runs: list[list[float]] = []
    for run in range(1 + num_runs):
        # Two tokens are enough to warm up: one comes from reading the prompt, the other from a step after it.
        with fast_products(device, weight.dtype):
            runs.append(_token_times(model, prompt[None].to(device), new_tokens if run else 2))
        on_progress(ProgressEvent("evaluate", run + 1, 1 + num_runs, "runs", "speed"))
    first = [seconds[0] for seconds in runs[1:]]
    generated = sorted((len(seconds) - 1) / (seconds[-1] - seconds[0]) for seconds in runs[1:])
    read = sorted(len(prompt) / seconds for seconds in first)
    return SpeedReport(
        device=str(device),
        prompt_tokens=len(prompt),
        new_tokens=new_tokens,
        num_runs=num_runs,
        first_token_seconds=median(first),
        tokens_per_second=median(generated),
        tokens_per_second_range=(generated[0], generated[-1]),
        prompt_tokens_per_second=median(read),
        prompt_tokens_per_second_range=(read[0], read[-1]),
    )


def _token_times(model: Any, prompt: torch.Tensor, new_tokens: int) -> list[float]:
    """Return the seconds from the call to each new token."""
    clock = _Clock()
    with torch.no_grad():
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=0,
            streamer=clock,
        )
    return clock.seconds


def continue_text(model: Any, tokenizer: Any, prompt: str, *, max_new_tokens: int = 40, **options: Any) -> str:
    """Continue a text, by default with the likeliest token each time.

    Args:
        model: a transformers model.
        tokenizer: its tokenizer.
        prompt: the text to continue.
        max_new_tokens: tokens to add at most.
        options: passed to transformers' `generate`, such as `do_sample=True` for sampling.

    Returns:
        The new text, without the prompt.

    Raises:
        ConfigError: the prompt is no text; or a token without an embedding in the model, which looked up would disable
            a GPU for the process.
    """
    if not isinstance(prompt, str):
        raise ConfigError(f"prompt must be a text, got {type(prompt).__name__}: ask for one text at a time")
    tokens = tokenizer(prompt, return_tensors="pt")
    rows = model.get_input_embeddings().weight.shape[0]
    ids = tokens["input_ids"].flatten().tolist()
    _refuse_beyond(ids, rows, "the tokenizer makes token", "give the model's own as tokenizer=")
    tokens = tokens.to(model.device)
    plain = not options
    options = {"do_sample": False, "pad_token_id": _padding_token(model, tokenizer, rows), **options}
    pad = options["pad_token_id"]
    _refuse_beyond([pad] if isinstance(pad, int) else [], rows, "pad_token_id is", "give another")
    output = None
    if plain and max_new_tokens > 0 and takes_graph(model):
        ends = ends_of(model)
        ids = tokens["input_ids"]
        output = generate_by_graph(model, ids, max_new_tokens=max_new_tokens, ends=ends, on_note=_warn)
    if output is None:
        with fast_products(model.device, model.dtype):
            output = model.generate(**tokens, max_new_tokens=max_new_tokens, **options)
    text: str = tokenizer.decode(output[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def ends_of(model: Any) -> list[Any]:
    """Return the tokens after which a model generates nothing more, as its generation config names them."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _warn(note: str) -> None:
    warnings.warn(note, RuntimeWarning, stacklevel=4)


def _padding_token(model: Any, tokenizer: Any, rows: int) -> int | None:
    """Return the token that fills up shorter sequences, one that the model can read; None if there is none."""
    pad = getattr(model.generation_config, "pad_token_id", None)
    candidates = (tokenizer.pad_token_id, pad, *ends_of(model))
    return next((token for token in candidates if isinstance(token, int) and 0 <= token < rows), None)


def _refuse_beyond(tokens: list[int], rows: int, what: str, way: str) -> None:
    beyond = [token for token in tokens if not 0 <= token < rows]
    if beyond:
        raise ConfigError(f"{what} {beyond[0]}, and the model has embeddings for 0 to {rows - 1}: {way}")


class _Clock:
    """Note the time of each token, as a streamer of `generate`: it gets the prompt, then each token on the CPU."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.seconds: list[float] = []
        self._is_prompt = True

    def put(self, tokens: torch.Tensor) -> None:
        if self._is_prompt:
            self._is_prompt = False
        else:
            self.seconds.append(time.perf_counter() - self._started)

    def end(self) -> None:
        """Do nothing; `generate` calls it."""
