"""Let a model write the text to calibrate it on, so that neither data nor a network is needed.

Tokens are sampled one after the other from the model's full distribution (temperature 1), as LLM-QAT does to train
without data (arXiv 2305.17888, section 2.1), for many samples at once.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import psutil
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.models.eval_mode import eval_mode
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.texts.calibration_text import Calibration, bounded, make_calibration
from qtoolkit.texts.kv_cache import BufferedLayer, OneQuery

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Bytes that keys, values and logits may take on a CPU, where even larger batches are hardly faster.
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

    Each sample begins with the model's first token (its BOS), or, without one, with a token drawn uniformly. When the
    model ends its text, the sample continues with a new one. The model and torch's random state are not changed. The
    same seed gives the same samples, as long as rounding is the same: same machine, same number of threads, same number
    of samples at once.

    Args:
        model: a loaded causal language model.
        tokenizer: its tokenizer, for the tokens that begin and end a text; None to use those of the config.
        num_samples: samples to write.
        seq_len: tokens of a sample.
        seed: of the random numbers.
        memory: bytes that keys, values and logits may take, which limits how many samples are written at once; None for
            2 GiB on a CPU and a quarter of the memory of a GPU, or less if that is not free.
        phase: of the job, for its progress.
        on_progress: called with the tokens written, after each step; what it raises stops the writing.

    Raises:
        UnsupportedModelError: the model has no cache of keys and values, or computes NaN.
    """
    config = model.config.get_text_config(decoder=True)
    seq_len, notes = bounded(seq_len, getattr(config, "max_position_embeddings", None))
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(seq_len, num_samples, generator=generator)  # [steps, samples]
    first = _first_token(model, tokenizer)
    ends = _end_tokens(model, tokenizer)
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

    with eval_mode(model), torch.no_grad(), OneQuery():
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
    """Write texts that begin with `starts` [rows], sampled by `uniform` [steps, rows]: int64 [rows, steps]."""
    steps, rows = uniform.shape
    device = model.device
    starts = starts.to(device)
    uniform = uniform.to(device)
    ended = torch.tensor([end for end in ends if end is not None], dtype=torch.int64, device=device)
    name = _cache_name(model)
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [BufferedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    tokens = torch.empty(steps, rows, dtype=torch.int64, device=device)
    tokens[0] = starts
    is_finite = torch.ones((), dtype=torch.bool, device=device)
    report(rows)
    for step in range(1, steps):
        logits = model(input_ids=tokens[step - 1, :, None], **{name: cache}, use_cache=True).logits[:, -1]
        cumulative = logits.float().softmax(-1).cumsum(-1)  # [rows, vocabulary]
        is_finite &= cumulative[:, -1].isfinite().all()
        tokens[step] = torch.where(torch.isin(tokens[step - 1], ended), starts, draw(cumulative, uniform[step]))
        report(rows)
    if not is_finite:
        dtype = str(model.dtype).removeprefix("torch.")
        raise UnsupportedModelError(
            f"{type(model).__name__} computes NaN in {dtype}, so that it cannot write its own calibration text: "
            "load it in bfloat16 or float32"
        )
    return tokens.T.cpu()


def draw(cumulative: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Sample one token for each row: the first whose cumulative probability exceeds a uniform random number.

    Example: probabilities 0.2, 0.5 and 0.3 add up to 0.2, 0.7 and 1.0, so the number 0.65 draws token 1.

    Args:
        cumulative: sums of the probabilities, float32 [rows, vocabulary].
        uniform: float32 [rows], each in [0, 1).
    """
    # The last sum is 1 only up to rounding.
    drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)  # [rows, 1]
    return drawn[:, 0].clamp(max=cumulative.shape[-1] - 1)


def _rows(model: "PreTrainedModel", seq_len: int, memory: int | None) -> int:
    """Return how many samples can be written at once, from the bytes that one token takes in the cache."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    logits = model(input_ids=token, **{_cache_name(model): cache}, use_cache=True).logits
    token_bytes = sum(
        value.nbytes for layer in cache.layers for value in vars(layer).values() if torch.is_tensor(value)
    )
    # The logits in float32, their softmax, and its sums.
    sample_bytes = token_bytes * seq_len + 3 * 4 * int(logits.shape[-1])
    return max(1, (memory or _memory(model.device)) // sample_bytes)


def _memory(device: torch.device) -> int:
    """Return the bytes that keys, values and logits may take; the same on one machine unless it is short of memory."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return min(total // 4, free * 4 // 5)
    return min(CPU_MEMORY, int(psutil.virtual_memory().available) // 4)


def _cache_name(model: "PreTrainedModel") -> str:
    """Return the name of the argument with which the model takes its cache.

    Raises:
        UnsupportedModelError: it takes no cache.
    """
    names = inspect.signature(model.forward).parameters
    # transformers 5.24 gave all models the first; older versions have the others.
    for name in ("cache", "past_key_values", "cache_params"):
        if name in names:
            return name
    raise UnsupportedModelError(
        f"{type(model).__name__} keeps no keys and values between steps, so that it cannot write its own calibration "
        "text: give a file, or a list of texts"
    )


def _first_token(model: "PreTrainedModel", tokenizer: Any) -> int | None:
    """Return the token that begins each text of a model; the tokenizer's may be one that the model does not know."""
    rows = model.get_input_embeddings().weight.shape[0]
    candidates = (getattr(tokenizer, "bos_token_id", None), model.config.get_text_config(decoder=True).bos_token_id)
    return next((token for token in candidates if isinstance(token, int) and 0 <= token < rows), None)


def _end_tokens(model: "PreTrainedModel", tokenizer: Any) -> set[int]:
    """Return the tokens that end a text of a model, by its tokenizer and its config."""
    config = model.generation_config or model.config.get_text_config(decoder=True)
    ends: set[int] = set()
    for tokens in (getattr(tokenizer, "eos_token_id", None), config.eos_token_id):
        ends |= {tokens} if isinstance(tokens, int) else set(tokens or ())
    return ends
