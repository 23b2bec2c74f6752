"""Read the text that a model is measured on: tokens in windows, and which of them are predicted in each."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError
from qtoolkit.records import OnProgress
from qtoolkit.texts.calibration_text import fingerprint_of, joined_by, prefix_of, refuse_foreign, with_prefix
from qtoolkit.texts.texts import open_texts
from qtoolkit.texts.token_stream import tokenize

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Windows:
    """Hold the windows of a text.

    Attributes:
        tokens: int64 [num_windows, seq_len], on the CPU.
        first: in each window the index of the first token that is predicted; all after it are too.
        name: the user's name for the text; never the text itself.
        fingerprint: SHA-256 of the tokens and their shape, in hexadecimal digits.
        stride: tokens from the beginning of one window to that of the next.
        begins_with: the tokens that the tokenizer puts before every text, as it prints them; empty for most.
        notes: notes for the user, one line each.
    """

    tokens: "torch.Tensor" = field(repr=False, compare=False)
    first: tuple[int, ...]
    name: str
    fingerprint: str
    stride: int
    begins_with: str = ""
    notes: tuple[str, ...] = ()

    @property
    def num_predicted(self) -> int:
        """Return the number of tokens that are predicted, in all windows."""
        return sum(self.tokens.shape[1] - first for first in self.first)

    def part(self, start: int, end: int) -> "Windows":
        """Return the windows from an index up to another, of the same text."""
        return replace(self, tokens=self.tokens[start:end], first=self.first[start:end])


def load_windows(
    value: Any,
    tokenizer: Any,
    *,
    seq_len: int,
    num_tokens: int,
    stride: int | None,
    max_seq_len: int | None,
    vocab_size: int | None,
    token: str | None = None,
    on_progress: OnProgress,
) -> Windows:
    """Cut the beginning of a text into windows; "wikitext2" and "c4" give the split that nothing is calibrated on.

    Each window begins with the tokens that the tokenizer puts before every text, if any (a BOS), which are not
    predicted. With a stride below the window's length the windows overlap, and each token is predicted once, in the
    first window that has it: with more context than at the beginning of a window.

    Example: 8 tokens in windows of 4 with a stride of 2 are the windows 0-3, 2-5 and 4-7. The first predicts the tokens
    1 to 3, the others 4 and 5, and 6 and 7.

    Args:
        value: as for `check_texts`, except "self"; chats are written by the tokenizer's chat template.
        tokenizer: the model's.
        seq_len: tokens of a window.
        num_tokens: tokens to take from the beginning of the text.
        stride: tokens from one window's beginning to the next; None for windows that do not overlap.
        max_seq_len: the most tokens that the model reads; None for no limit.
        vocab_size: number of tokens that the model knows; None if unknown.
        token: Hub token; None for the one that huggingface_hub finds.
        on_progress: called with the tokens read.

    Raises:
        ConfigError: no tokenizer, or one of another model; a text that cannot be used, or is shorter than a window.
        MissingDependencyError: the package that reads it is not installed.
        SourceError: the Hub does not hand the text out, or does not answer.
    """
    import torch

    if not callable(tokenizer):
        raise ConfigError("text is read with the model's tokenizer, and there is none: give tokenizer=")
    if max_seq_len is not None and seq_len > max_seq_len:
        raise ConfigError(f"seq_len must be at most {max_seq_len}, the most that the model reads, got {seq_len}")
    texts = open_texts(value, token=token, held_out=True, tokenizer=tokenizer)
    prefix = prefix_of(tokenizer)
    body = seq_len - len(prefix)
    step = min(stride or body, body)
    if body < 1:
        raise ConfigError(f"seq_len must be at least {len(prefix) + 1} with this tokenizer, got {seq_len}")
    stream = tokenize(texts, tokenizer, prefix=prefix, limit=num_tokens, phase="evaluate", on_progress=on_progress)
    count = len(stream.tokens)
    if count < body:
        raise ConfigError(
            f"text: {texts.name} makes {count + len(prefix)} tokens, and one window takes {seq_len}: give a longer "
            "text, or a smaller seq_len"
        )
    notes = [*texts.notes, *joined_by(stream, tokenizer)]
    if count < num_tokens:
        notes.append(f"{count:,} tokens instead of {num_tokens:,}: that is all of {texts.name}")
    tokens = with_prefix(prefix, torch.from_numpy(stream.tokens).unfold(0, body, step))
    refuse_foreign(tokens, vocab_size)
    # Without a prefix, the first token of a text has no context, and cannot be predicted.
    first = (max(1, len(prefix)), *[max(1, seq_len - step)] * (len(tokens) - 1))
    begins_with = " ".join(map(str, tokenizer.convert_ids_to_tokens(prefix)))
    return Windows(tokens, first, texts.name, fingerprint_of(tokens), step, begins_with, tuple(notes))


def written_windows(tokens: "torch.Tensor", notes: tuple[str, ...]) -> Windows:
    """Build windows from texts that the model wrote itself, one each.

    Args:
        tokens: int64 [num_windows, seq_len].
        notes: notes for the user on how they were written.
    """
    return Windows(tokens, (1,) * len(tokens), "self", fingerprint_of(tokens), tokens.shape[1], notes=notes)
