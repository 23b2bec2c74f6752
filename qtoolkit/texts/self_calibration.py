"""Text that a model writes itself: calibration without data and without a network.

Tokens are drawn one after the other from the model's full distribution (temperature 1), as LLM-QAT does to train
without data (arXiv 2305.17888, section 2.1), for many samples at once.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.texts.calibration_text import Calibration, bounded, make_calibration
from qtoolkit.texts.kv_cache import OneQuery, RoomyLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Bytes to write with on a CPU, where more samples at once than this takes are hardly faster.
CPU_MEMORY = 2 * 1024**3


def self_calibration(
    model: "PreTrainedModel",
    tokenizer: Any,
    *,
    num_samples: int,
    seq_len: int,
    seed: int = 0,
    memory: int | None = None,
    phase: str = "calibrate",
    on_progress: OnProgress,
) -> Calibration:
    """Let a model write the text that it is calibrated on.

    Each sample begins with the model's first token (its BOS), or where it has none with a token drawn uniformly. When
    the model ends its text, the sample goes on with a new one. The model and torch's random numbers stay as they were.
    The same seed gives the same samples, as long as rounding is the same: same machine, same number of threads, same
    number of samples at once.

    Args:
        model: a loaded causal language model.
        tokenizer: its tokenizer, for the tokens that begin and end a text; None to go by the config.
        num_samples: samples to write.
        seq_len: tokens of a sample.
        seed: of the random numbers.
        memory: bytes that keys, values and logits may take, which bounds how many samples are written at once; None
            for 2 GiB on a CPU and a quarter of the memory of a GPU, or less where that is not free.
        phase: of the job, for its progress.
        on_progress: told of the tokens written, after each step; what it raises stops the writing.

    Raises:
        UnsupportedModelError: the model keeps no keys and values between steps, or computes no numbers (NaN).
    """
    config = model.config.get_text_config(decoder=True)
    seq_len, notes = bounded(seq_len, getattr(config, "max_position_embeddings", None))
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(seq_len, num_samples, generator=generator)  # [steps, samples]
    first, ends = _first_token(model, tokenizer), _end_tokens(model, tokenizer)
    if first is None:
        starts = torch.randint(config.vocab_size, (num_samples,), generator=generator)  # [samples]
        beginning = "a token drawn uniformly"
    else:
        starts = torch.full((num_samples,), first)  # [samples]
        beginning = str(tokenizer.convert_ids_to_tokens(first)) if tokenizer is not None else f"token {first}"

    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        on_progress(ProgressEvent(phase, done, num_samples * seq_len, unit="tokens", detail="self"))

    with _undisturbed(model):
        rows = min(num_samples, _rows(model, seq_len, memory))
        batches = [
            _write(model, starts[part], uniform[:, part], ends - {first}, report)
            for part in torch.arange(num_samples).tensor_split(-(-num_samples // rows))
        ]
    used = f"{num_samples} samples of {seq_len} tokens that the model wrote itself ({num_samples * seq_len:,} tokens)"
    notes.insert(0, f"calibrated with {used}, each from {beginning}, seed {seed}")
    return make_calibration(torch.cat(batches), "self", notes)


def _write(
    model: "PreTrainedModel",
    starts: torch.Tensor,
    uniform: torch.Tensor,
    ends: Iterable[int | None],
    report: Callable[[int], None],
) -> torch.Tensor:
    """Texts that begin with `starts` [rows], drawn by `uniform` [steps, rows]: int64 [rows, steps]."""
    steps, rows = uniform.shape
    device = model.device
    starts, uniform = starts.to(device), uniform.to(device)
    ended = torch.tensor([end for end in ends if end is not None], dtype=torch.int64, device=device)
    name = _cache_name(model)
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    tokens = torch.empty(steps, rows, dtype=torch.int64, device=device)
    tokens[0] = starts
    is_sound = torch.ones((), dtype=torch.bool, device=device)
    report(rows)
    for step in range(1, steps):
        logits = model(input_ids=tokens[step - 1, :, None], **{name: cache}, use_cache=True).logits[:, -1]
        cumulative = logits.float().softmax(-1).cumsum(-1)  # [rows, vocabulary]
        is_sound &= cumulative[:, -1].isfinite().all()
        tokens[step] = torch.where(torch.isin(tokens[step - 1], ended), starts, draw(cumulative, uniform[step]))
        report(rows)
    if not is_sound:
        dtype = str(model.dtype).removeprefix("torch.")
        raise UnsupportedModelError(
            f"{type(model).__name__} computes NaN in {dtype}, so that it cannot write its own calibration text: "
            "load it in bfloat16 or float32"
        )
    return tokens.T.cpu()


def draw(cumulative: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """One token for each row: the first whose cumulative probability exceeds a uniform random number.

    Example: probabilities 0.2, 0.5 and 0.3 add up to 0.2, 0.7 and 1.0, so the number 0.65 draws token 1.

    Args:
        cumulative: sums of the probabilities, float32 [rows, vocabulary].
        uniform: float32 [rows], each in [0, 1).
    """
    # The last sum is 1 only up to rounding.
    drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)  # [rows, 1]
    return drawn[:, 0].clamp(max=cumulative.shape[-1] - 1)


def _rows(model: "PreTrainedModel", seq_len: int, memory: int | None) -> int:
    """How many samples can be written at once, by what one token of one sample leaves in the cache."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    logits = model(input_ids=token, **{_cache_name(model): cache}, use_cache=True).logits
    kept = sum(value.nbytes for layer in cache.layers for value in vars(layer).values() if torch.is_tensor(value))
    # The logits in float32, their softmax, and its sums.
    each = kept * seq_len + 3 * 4 * int(logits.shape[-1])
    return max(1, (memory or _memory(model.device)) // each)


def _memory(device: torch.device) -> int:
    """Bytes to write with; the same on the same machine unless it is short of memory."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return min(total // 4, free * 4 // 5)
    return min(CPU_MEMORY, int(psutil.virtual_memory().available) // 4)


def _cache_name(model: "PreTrainedModel") -> str:
    """Under which name the model takes what it keeps between steps.

    Raises:
        UnsupportedModelError: it takes no such thing.
    """
    names = inspect.signature(model.forward).parameters
    for name in ("past_key_values", "cache_params"):
        if name in names:
            return name
    raise UnsupportedModelError(
        f"{type(model).__name__} keeps no keys and values between steps, so that it cannot write its own calibration "
        "text: give a file, or a list of texts"
    )


def _first_token(model: "PreTrainedModel", tokenizer: Any) -> int | None:
    """What a text of this model begins with; a tokenizer may have a token for it that the model does not know."""
    rows = model.get_input_embeddings().weight.shape[0]
    found = (getattr(tokenizer, "bos_token_id", None), model.config.get_text_config(decoder=True).bos_token_id)
    return next((token for token in found if isinstance(token, int) and 0 <= token < rows), None)


def _end_tokens(model: "PreTrainedModel", tokenizer: Any) -> set[int]:
    """What ends a text of this model."""
    settings = model.generation_config or model.config.get_text_config(decoder=True)
    found = (getattr(tokenizer, "eos_token_id", None), settings.eos_token_id)
    return {
        token for tokens in found if tokens is not None for token in ([tokens] if isinstance(tokens, int) else tokens)
    }


@contextmanager
def _undisturbed(model: "PreTrainedModel") -> Iterator[None]:
    """The model without dropout and gradients; put back as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), OneQuery():
            yield
    finally:
        for module in training:
            module.training = True
