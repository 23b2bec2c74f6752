"""How fast a model reads a prompt and writes after it."""

import time
from statistics import median
from typing import Any

import torch

from qtoolkit.errors import ConfigError
from qtoolkit.records import OnProgress, ProgressEvent, SpeedReport
from qtoolkit.stream import fast_products


def measure_generation(
    model: Any, prompt: torch.Tensor, *, new_tokens: int, num_runs: int, on_progress: OnProgress
) -> SpeedReport:
    """Time a model's own `generate`, the likeliest token each time, after a short run to warm up.

    Args:
        model: a transformers model.
        prompt: int64 [tokens], what is read.
        new_tokens: tokens written after it, at least 2; the end of the text does not stop the writing.
        num_runs: runs that count.
        on_progress: told of each run.
    """
    weight = model.get_input_embeddings().weight
    device = weight.device
    clocks = []
    for run in range(1 + num_runs):
        # Two tokens are enough to warm up: one comes of reading the prompt, the other of a step after it.
        with fast_products(device, weight.dtype):
            clocks.append(_timed(model, prompt[None].to(device), new_tokens if run else 2))
        on_progress(ProgressEvent("evaluate", run + 1, 1 + num_runs, "runs", "speed"))
    first = [clock[0] for clock in clocks[1:]]
    writes = sorted((len(clock) - 1) / (clock[-1] - clock[0]) for clock in clocks[1:])
    reads = sorted(len(prompt) / seconds for seconds in first)
    return SpeedReport(
        device=str(device),
        prompt_tokens=len(prompt),
        new_tokens=new_tokens,
        num_runs=num_runs,
        first_token_seconds=median(first),
        tokens_per_second=median(writes),
        tokens_per_second_range=(writes[0], writes[-1]),
        prompt_tokens_per_second=median(reads),
        prompt_tokens_per_second_range=(reads[0], reads[-1]),
    )


def _timed(model: Any, prompt: torch.Tensor, new_tokens: int) -> list[float]:
    """Seconds from the call to each new token."""
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
    """Continue a text, taking the likeliest token each time.

    Args:
        model: a transformers model.
        tokenizer: its tokenizer.
        prompt: the text to continue.
        max_new_tokens: tokens to add at most.
        options: passed on to transformers' `generate`; `do_sample=True` for sampling.

    Returns:
        The new text, without the prompt.

    Raises:
        ConfigError: a token that the model has no embedding for: on a GPU, looking for it ends all work there.
    """
    tokens = tokenizer(prompt, return_tensors="pt")
    rows = model.get_input_embeddings().weight.shape[0]
    found = tokens["input_ids"].flatten().tolist()
    _refuse_beyond(found, rows, "the tokenizer makes token", "give the model's own as tokenizer=")
    tokens = tokens.to(model.device)
    choices = {"do_sample": False, "pad_token_id": _padding(model, tokenizer, rows), **options}
    pad = choices["pad_token_id"]
    _refuse_beyond([pad] if isinstance(pad, int) else [], rows, "pad_token_id is", "give another")
    with fast_products(model.device, model.dtype):
        output = model.generate(**tokens, max_new_tokens=max_new_tokens, **choices)
    text: str = tokenizer.decode(output[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def _padding(model: Any, tokenizer: Any, rows: int) -> int | None:
    """The token that fills up shorter ones of several answers, which the model reads too; None to leave it open."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    settled = getattr(model.generation_config, "pad_token_id", None)
    found = (tokenizer.pad_token_id, settled, *(ends if isinstance(ends, list) else [ends]))
    return next((token for token in found if isinstance(token, int) and 0 <= token < rows), None)


def _refuse_beyond(tokens: list[int], rows: int, what: str, way: str) -> None:
    beyond = [token for token in tokens if not 0 <= token < rows]
    if beyond:
        raise ConfigError(f"{what} {beyond[0]}, and the model has embeddings for 0 to {rows - 1}: {way}")


class _Clock:
    """What `generate` calls a streamer: is given the prompt, then each token on the CPU, which waits for a GPU."""

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
        """Nothing is left to do."""
