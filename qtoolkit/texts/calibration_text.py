"""Text that a model is calibrated on: tokens in samples of one length, and what was decided on the way."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError
from qtoolkit.records import OnProgress
from qtoolkit.texts.texts import Texts, check_texts, open_texts
from qtoolkit.texts.token_stream import TokenStream, tokenize

if TYPE_CHECKING:
    import torch

    from qtoolkit.models.checkpoint import Checkpoint

# The samples are spread over at most this many tokens of a text, or 4 times what they take.
REACH = 2_000_000


@dataclass(frozen=True)
class Calibration:
    """Samples to calibrate on.

    Attributes:
        tokens: int64 [num_samples, seq_len], on the CPU.
        name: what the user called the text: "wikitext2", "self", a file's name, "12 texts"; never the text itself.
        fingerprint: SHA-256 of the tokens and their shape, in hexadecimal digits.
        notes: what was decided, one line each.
        checked: as `text_check` of `qtoolkit.records.CalibrationReport`.
    """

    tokens: "torch.Tensor" = field(repr=False, compare=False)
    name: str
    fingerprint: str
    notes: tuple[str, ...] = ()
    checked: str = field(default="", compare=False)


def check_calibration(value: Any) -> None:
    """Refuse, before any work, calibration text that can be seen to be of no use.

    Args:
        value: "wikitext2", "c4", "self", a file (.txt, .jsonl, .parquet), a list of texts, or a Dataset.

    Raises:
        ConfigError: it is none of those, is empty or binary, or holds no text where it should.
        MissingDependencyError: the package that reads it is not installed.
    """
    if not _is_self(value):
        check_texts(value, "calibration", others=("self",))


def load_calibration(
    value: Any,
    tokenizer: Any,
    *,
    num_samples: int,
    seq_len: int,
    max_seq_len: int | None,
    vocab_size: int,
    token: str | None = None,
    on_progress: OnProgress,
) -> Calibration:
    """Tokenize text and cut samples out of it, as many and as long as asked where the text and the model have them.

    Documents are joined by the tokenizer's end-of-text token. The samples are windows that do not overlap, spread
    evenly over the text; those of a stream stand at its beginning. Each begins with the tokens that the tokenizer puts
    before every text, if any (a BOS). The same text and tokenizer always give the same samples.

    Args:
        value: as `check_calibration` takes it, but for "self": that is `self_calibration`.
        tokenizer: the model's.
        num_samples: samples to take.
        seq_len: tokens of a sample.
        max_seq_len: the most that the model reads (`max_position_embeddings`); None where nothing bounds it.
        vocab_size: tokens that the model knows: rows of its embedding.
        token: Hub token; None for the one that huggingface_hub finds.
        on_progress: told of the tokens read; what it raises stops the reading.

    Raises:
        ConfigError: no tokenizer, or one of another model; text that cannot be used or makes no whole sample.
        MissingDependencyError: the package that reads it is not installed.
        SourceError: the Hub does not hand the text out, or does not answer.
    """
    if _is_self(value):
        raise ValueError("text that the model writes itself is made by self_calibration")
    check_calibration(value)
    if not callable(tokenizer):
        raise ConfigError("calibration text is read with the model's tokenizer, and there is none: give tokenizer=")
    texts = open_texts(value, token=token)
    length, notes = bounded(seq_len, max_seq_len)
    prefix = prefix_of(tokenizer)
    body = length - len(prefix)
    if body < 1:
        raise ConfigError(f"seq_len must be at least {len(prefix) + 1} with this tokenizer, got {length}")
    wanted = num_samples * body
    limit = wanted if texts.is_stream else max(4 * wanted, REACH)
    stream = tokenize(texts, tokenizer, limit=limit, phase="calibrate", on_progress=on_progress)
    if len(stream.tokens) < body:
        raise _too_short(texts.name, len(stream.tokens) + len(prefix), length)
    tokens = _windows(stream, prefix, body, num_samples)
    refuse_foreign(tokens, vocab_size)
    told = [*_told(texts, stream, tokens, body, num_samples), *notes]
    if prefix:
        names = " ".join(map(str, tokenizer.convert_ids_to_tokens(prefix)))
        told.append(f"each sample begins with {names}, as this tokenizer begins every text")
    if stream.num_documents > 1:
        told.append(joined_by(stream.num_documents, tokenizer))
    made = make_calibration(tokens, texts.name, [*told, *texts.notes])
    return replace(made, checked="; ".join(texts.checks))


def read_calibration(
    checkpoint: "Checkpoint", value: Any, *, num_samples: int, seq_len: int, on_progress: OnProgress
) -> Calibration:
    """`load_calibration` with a model's tokenizer, and within what the model reads and knows."""
    config = checkpoint.config.get_text_config()
    return load_calibration(
        value,
        checkpoint.tokenizer,
        num_samples=num_samples,
        seq_len=seq_len,
        max_seq_len=getattr(config, "max_position_embeddings", None),
        vocab_size=config.vocab_size,
        on_progress=on_progress,
    )


def _windows(stream: TokenStream, prefix: list[int], body: int, num_samples: int) -> "torch.Tensor":
    """Windows of `body` tokens, evenly spread over the text, each after the prefix: int64 [count, prefix + body]."""
    import torch

    found = len(stream.tokens) // body
    count = min(num_samples, found)
    windows = torch.from_numpy(stream.tokens[: found * body]).view(found, body)  # [found, body]
    chosen = windows[[index * found // count for index in range(count)]].long()  # [count, body]
    return torch.cat([torch.tensor(prefix).long().expand(count, -1), chosen], dim=1)


def _told(texts: Texts, stream: TokenStream, tokens: "torch.Tensor", body: int, num_samples: int) -> list[str]:
    """How much of the text was taken, and from where."""
    count, seq_len = tokens.shape
    if texts.is_stream:
        place = f"its first {count * body:,} tokens"
    else:
        found = f"{len(stream.tokens):,} tokens"
        place = f"{count * body:,} of {found if stream.is_whole else f'its first {found}'}, evenly spread"
    told = [f"calibrated with {count} samples of {seq_len} tokens of {texts.name} ({place})"]
    if count < num_samples:
        told.append(f"{count} samples instead of {num_samples}: that is all of {texts.name}")
    return told


def make_calibration(tokens: "torch.Tensor", name: str, notes: list[str]) -> Calibration:
    """Samples with their fingerprint.

    Args:
        tokens: int64 [num_samples, seq_len].
        name: what the user called the text.
        notes: what was decided, one line each.
    """
    return Calibration(tokens, name, fingerprint_of(tokens), tuple(notes))


def fingerprint_of(tokens: "torch.Tensor") -> str:
    """SHA-256 of tokens and their shape, in hexadecimal digits."""
    return hashlib.sha256(f"{list(tokens.shape)}".encode() + tokens.contiguous().numpy().tobytes()).hexdigest()


def bounded(seq_len: int, max_seq_len: int | None) -> tuple[int, list[str]]:
    """The length of a sample that the model can read, and what to say of it."""
    if max_seq_len is None or seq_len <= max_seq_len:
        return seq_len, []
    return max_seq_len, [f"samples of {max_seq_len} tokens instead of {seq_len}, the most that the model reads"]


def prefix_of(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before every text, such as a BOS; none for most."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    starts = [start for start in range(len(whole)) if whole[start : start + len(plain)] == plain]
    return whole[: starts[0]] if starts else []


def joined_by(num_documents: int, tokenizer: Any) -> str:
    """How the documents of a text were joined, for a note."""
    if tokenizer.eos_token_id is None:
        return f"{num_documents:,} documents joined as they are: the tokenizer has no end-of-text token"
    return f"{num_documents:,} documents joined by {tokenizer.eos_token}"


def refuse_foreign(tokens: "torch.Tensor", vocab_size: int | None) -> None:
    """Refuse tokens that a model does not know; none where it does not say how many it knows.

    Raises:
        ConfigError: the largest is not below `vocab_size`.
    """
    largest = int(tokens.max())
    if vocab_size is not None and largest >= vocab_size:
        raise ConfigError(
            f"the tokenizer makes token {largest} of the text, and the model knows 0 to {vocab_size - 1}: "
            "give the model's own as tokenizer="
        )


def _too_short(name: str, found: int, needed: int) -> ConfigError:
    shorter = f"seq_len={found}, " if found >= 32 else ""
    return ConfigError(
        f"calibration: {name} makes {found} tokens, and one sample takes {needed}: give {shorter}a longer text, "
        "or calibration='self'"
    )


def _is_self(value: Any) -> bool:
    return isinstance(value, str) and value == "self"
