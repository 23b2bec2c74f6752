"""Read the text that a model is calibrated on: tokens in samples of one length, and notes on how they were chosen."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError
from qtoolkit.records import OnProgress
from qtoolkit.texts.calibration_sources import check_calibration, columns_of
from qtoolkit.texts.mixtures import counts_of
from qtoolkit.texts.texts import Texts, is_self, open_texts
from qtoolkit.texts.token_ids import ids_name, is_token_ids, read_token_ids
from qtoolkit.texts.token_stream import TokenStream, tokenize

if TYPE_CHECKING:
    import torch

    from qtoolkit.models.checkpoint import Checkpoint

# The samples are spread over at most this many tokens of a text, or over 4 times the tokens that they take.
REACH = 2_000_000


@dataclass(frozen=True)
class Calibration:
    """Hold samples to calibrate on.

    Attributes:
        tokens: int64 [num_samples, seq_len], on the CPU.
        name: the user's name for the text: "wikitext2", "self", a file's name, "12 texts"; never the text itself.
        fingerprint: SHA-256 of the tokens and their shape, in hexadecimal digits.
        notes: notes for the user, one line each.
        checked: as `text_check` of `qtoolkit.records.CalibrationReport`.
    """

    tokens: "torch.Tensor" = field(repr=False, compare=False)
    name: str
    fingerprint: str
    notes: tuple[str, ...] = ()
    checked: str = field(default="", compare=False)


def load_calibration(
    value: Any,
    tokenizer: Any,
    *,
    num_samples: int,
    seq_len: int,
    max_seq_len: int | None,
    vocab_size: int,
    column: str | None = None,
    on_progress: OnProgress,
) -> Calibration:
    """Tokenize text and cut samples out of it; fewer or shorter ones if the text or the model has no more.

    Documents are joined by the tokenizer's end-of-text token; chats are written by its chat template. The samples are
    windows that do not overlap, spread evenly over the text; those of a stream are its beginning. Each begins with the
    tokens that the tokenizer puts before every text, if any (a BOS), and has them once. Samples of a mixture come one
    source after the other. Rows of token ids are the samples, as they are. The same text and tokenizer always give the
    same samples.

    Args:
        value: as for `check_calibration`, except "self", for which `self_calibration` is called.
        tokenizer: the model's.
        num_samples: samples to take.
        seq_len: tokens of a sample.
        max_seq_len: the most tokens that the model reads (`max_position_embeddings`); None for no limit.
        vocab_size: number of tokens that the model knows: rows of its embedding.
        column: the column of the text's rows to read; None to choose one by its name.
        on_progress: called with the tokens read; what it raises stops the reading.

    Raises:
        ConfigError: no tokenizer, or one of another model; text that cannot be used or is shorter than a sample; a chat
            that the tokenizer's template cannot write.
        MissingDependencyError: the package that reads it is not installed.
        SourceError: the Hub does not hand the text out, or does not answer.
    """
    if is_self(value):
        raise ValueError("text that the model writes itself is made by self_calibration")
    check_calibration(value, column)
    length, notes = bounded(seq_len, max_seq_len)
    if is_token_ids(value):
        return _given_samples(value, num_samples, length, vocab_size, notes)
    if not callable(tokenizer):
        raise ConfigError("calibration text is read with the model's tokenizer, and there is none: give tokenizer=")
    if not isinstance(value, Mapping):
        text = _read_text(value, tokenizer, num_samples, length, column, on_progress)
        refuse_foreign(text.tokens, vocab_size)
        return replace(text, notes=(*text.notes[:1], *notes, *text.notes[1:]))
    columns = columns_of(value, column)
    counts = counts_of(value, num_samples)
    parts = [
        _read_text(source, tokenizer, count, length, columns[source], on_progress)
        for source, count in counts.items()
        if count
    ]
    mixed = _mixed(parts, [source for source, count in counts.items() if not count], notes)
    refuse_foreign(mixed.tokens, vocab_size)
    return mixed


def _given_samples(value: Any, num_samples: int, length: int, vocab_size: int, notes: list[str]) -> Calibration:
    """Take samples that are given as token ids, at most so many of at most so many tokens."""
    import torch

    given = torch.from_numpy(read_token_ids(value, num_samples))  # [samples, tokens]
    tokens = given[:, :length].contiguous()
    largest = int(tokens.max())
    if largest >= vocab_size:
        raise ConfigError(
            f"calibration: the token ids go up to {largest}, and the model knows 0 to {vocab_size - 1}: make them with "
            "the model's own tokenizer"
        )
    name = ids_name(value)
    count, width = tokens.shape
    notes = [f"calibrated with {count} samples of {width} tokens of {name}, as they are", *notes]
    if count < num_samples:
        notes.append(f"{count} samples instead of {num_samples}: that is all of {name}")
    if width < given.shape[1]:
        notes.append(f"the first {width} of {given.shape[1]} tokens of each row")
    elif width < length:
        notes.append(f"samples of {width} tokens instead of {length}, as they are given")
    return make_calibration(tokens, name, notes)


def _mixed(parts: list[Calibration], left_out: list[str], notes: list[str]) -> Calibration:
    """Put the samples of a mixture's sources together, with a note on how many came from each."""
    import torch

    taken = ", ".join(f"{len(part.tokens)} of {part.name}" for part in parts)
    none = [f"no sample of {Path(source).name}: so few samples are less than one for its share" for source in left_out]
    of_parts = dict.fromkeys(note for part in parts for note in part.notes)
    tokens = torch.cat([part.tokens for part in parts])  # [samples, seq_len]
    name = " + ".join(part.name for part in parts)
    mixed = make_calibration(tokens, name, [f"samples of the mixture: {taken}", *none, *notes, *of_parts])
    return replace(mixed, checked="; ".join(part.checked for part in parts if part.checked))


def _read_text(
    value: Any, tokenizer: Any, num_samples: int, length: int, column: str | None, on_progress: OnProgress
) -> Calibration:
    """Tokenize one text and cut samples of `length` tokens out of it."""
    prefix = prefix_of(tokenizer)
    body = length - len(prefix)
    if body < 1:
        raise ConfigError(f"seq_len must be at least {len(prefix) + 1} with this tokenizer, got {length}")
    texts = open_texts(value, column=column, tokenizer=tokenizer)
    needed = num_samples * body
    limit = needed if texts.is_stream else max(4 * needed, REACH)
    stream = tokenize(texts, tokenizer, prefix=prefix, limit=limit, phase="calibrate", on_progress=on_progress)
    if len(stream.tokens) < body:
        raise _too_short(texts.name, len(stream.tokens) + len(prefix), length)
    tokens = _windows(stream, prefix, body, num_samples)
    notes = _coverage(texts, stream, tokens, body, num_samples)
    if prefix:
        names = " ".join(map(str, tokenizer.convert_ids_to_tokens(prefix)))
        notes.append(f"each sample begins with {names}, as this tokenizer begins every text")
    notes += [*joined_by(stream, tokenizer), *texts.notes]
    return replace(make_calibration(tokens, texts.name, notes), checked="; ".join(texts.checks))


def read_calibration(
    checkpoint: "Checkpoint",
    value: Any,
    *,
    num_samples: int,
    seq_len: int,
    column: str | None = None,
    on_progress: OnProgress,
) -> Calibration:
    """Call `load_calibration` with the tokenizer, the sequence length and the vocabulary size of a model."""
    config = checkpoint.config.get_text_config()
    return load_calibration(
        value,
        checkpoint.tokenizer,
        num_samples=num_samples,
        seq_len=seq_len,
        max_seq_len=getattr(config, "max_position_embeddings", None),
        vocab_size=config.vocab_size,
        column=column,
        on_progress=on_progress,
    )


def _windows(stream: TokenStream, prefix: list[int], body: int, num_samples: int) -> "torch.Tensor":
    """Cut windows of `body` tokens, evenly spread over the text, with the prefix: int64 [count, prefix + body]."""
    import torch

    available = len(stream.tokens) // body
    count = min(num_samples, available)
    windows = torch.from_numpy(stream.tokens[: available * body]).view(available, body)  # [available, body]
    chosen = windows[[index * available // count for index in range(count)]]  # [count, body]
    return with_prefix(prefix, chosen)


def with_prefix(prefix: list[int], windows: "torch.Tensor") -> "torch.Tensor":
    """Put the same tokens before each window: [count, body] -> int64 [count, prefix + body]."""
    import torch

    return torch.cat([torch.tensor(prefix).long().expand(len(windows), -1), windows.long()], dim=1)


def _coverage(texts: Texts, stream: TokenStream, tokens: "torch.Tensor", body: int, num_samples: int) -> list[str]:
    """Return notes on how much of the text was taken, and from where."""
    count, seq_len = tokens.shape
    if texts.is_stream:
        part = f"its first {count * body:,} tokens"
    else:
        read = f"{len(stream.tokens):,} tokens"
        part = f"{count * body:,} of {read if stream.is_complete else f'its first {read}'}, evenly spread"
    notes = [f"calibrated with {count} samples of {seq_len} tokens of {texts.name} ({part})"]
    if count < num_samples:
        notes.append(f"{count} samples instead of {num_samples}: that is all of {texts.name}")
    return notes


def make_calibration(tokens: "torch.Tensor", name: str, notes: list[str]) -> Calibration:
    """Build a `Calibration` from samples, and compute their fingerprint.

    Args:
        tokens: int64 [num_samples, seq_len].
        name: the user's name for the text.
        notes: notes for the user, one line each.
    """
    return Calibration(tokens, name, fingerprint_of(tokens), tuple(notes))


def fingerprint_of(tokens: "torch.Tensor") -> str:
    """Return the SHA-256 of tokens and their shape, in hexadecimal digits."""
    return hashlib.sha256(f"{list(tokens.shape)}".encode() + tokens.contiguous().numpy().tobytes()).hexdigest()


def bounded(seq_len: int, max_seq_len: int | None) -> tuple[int, list[str]]:
    """Return the length of a sample, at most what the model reads, and a note if that is less than requested."""
    if max_seq_len is None or seq_len <= max_seq_len:
        return seq_len, []
    return max_seq_len, [f"samples of {max_seq_len} tokens instead of {seq_len}, the most that the model reads"]


def prefix_of(tokenizer: Any) -> list[int]:
    """Return the tokens that a tokenizer puts before every text, such as a BOS; none for most."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    special = list(tokenizer("a")["input_ids"])
    starts = [start for start in range(len(special)) if special[start : start + len(plain)] == plain]
    return special[: starts[0]] if starts else []


def joined_by(stream: TokenStream, tokenizer: Any) -> list[str]:
    """Return a note on how the documents of a text were joined; none for a single document."""
    if stream.num_documents < 2:
        return []
    count = f"{stream.num_documents:,} documents"
    if tokenizer.eos_token_id is None:
        return [f"{count} joined as they are: the tokenizer has no end-of-text token"]
    if not stream.num_joins:
        return [f"{count}, each of which ends with {tokenizer.eos_token} itself"]
    return [f"{count} joined by {tokenizer.eos_token}"]


def refuse_foreign(tokens: "torch.Tensor", vocab_size: int | None) -> None:
    """Refuse tokens that a model does not know, if its vocabulary size is known.

    Raises:
        ConfigError: the largest is not below `vocab_size`.
    """
    largest = int(tokens.max())
    if vocab_size is not None and largest >= vocab_size:
        raise ConfigError(
            f"the tokenizer makes token {largest} of the text, and the model knows 0 to {vocab_size - 1}: "
            "give the model's own as tokenizer="
        )


def _too_short(name: str, count: int, needed: int) -> ConfigError:
    shorter = f"seq_len={count}, " if count >= 32 else ""
    return ConfigError(
        f"calibration: {name} makes {count} tokens, and one sample takes {needed}: give {shorter}a longer text, "
        "or calibration='self'"
    )
