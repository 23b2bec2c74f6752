"""Text that a model is measured on: tokens in windows, and which of them are predicted in each."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError
from qtoolkit.records import OnProgress
from qtoolkit.texts.calibration_text import fingerprint_of, joined_by, prefix_of, refuse_foreign
from qtoolkit.texts.texts import check_texts, open_texts
from qtoolkit.texts.token_stream import tokenize

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Windows:
    """Windows of a text.

    Attributes:
        tokens: int64 [num_windows, seq_len], on the CPU.
        first: in each window the place of the first token that is predicted; all after it are too.
        name: what the user called the text; never the text itself.
        fingerprint: SHA-256 of the tokens and their shape, in hexadecimal digits.
        stride: tokens from the beginning of one window to that of the next.
        begins_with: the tokens that the tokenizer puts before every text, in its own words; empty for most.
        notes: what was decided, one line each.
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
        """Tokens that are predicted, in all windows."""
        return sum(self.tokens.shape[1] - first for first in self.first)


def check_text(text: Any) -> None:
    """Refuse, before any work, a text that cannot be measured on.

    Raises:
        ConfigError: there is no such text.
        MissingDependencyError: the package that reads the text is not installed.
    """
    if not (isinstance(text, str) and text == "self"):
        check_texts(text, "text", others=("self",))


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
    """The beginning of a text in windows. Of "wikitext2" and "c4" the split is taken that nothing is calibrated on.

    Each window begins with the tokens that the tokenizer puts before every text, if any (a BOS), which are not
    predicted. With a stride below the window's length the windows overlap, and each token is predicted once, in the
    first window that has it: with more before it than at the beginning of a window.

    Example: 8 tokens in windows of 4 with a stride of 2 are the windows 0-3, 2-5 and 4-7. The first predicts the tokens
    1 to 3, the others 4 and 5, and 6 and 7.

    Args:
        value: "wikitext2", "c4", a file (.txt, .jsonl, .parquet), a list of texts, or a Dataset.
        tokenizer: the model's.
        seq_len: tokens of a window.
        num_tokens: tokens of the text to take.
        stride: tokens from one window's beginning to the next; None for windows that do not overlap.
        max_seq_len: the most that the model reads; None where nothing bounds it.
        vocab_size: tokens that the model knows; None where it does not say.
        token: Hub token; None for the one that huggingface_hub finds.
        on_progress: told of the tokens read.

    Raises:
        ConfigError: no tokenizer, or one of another model; a text that cannot be used, or is shorter than a window.
        MissingDependencyError: the package that reads it is not installed.
        SourceError: the Hub does not hand the text out, or does not answer.
    """
    if not callable(tokenizer):
        raise ConfigError("text is read with the model's tokenizer, and there is none: give tokenizer=")
    if max_seq_len is not None and seq_len > max_seq_len:
        raise ConfigError(f"seq_len must be at most {max_seq_len}, the most that the model reads, got {seq_len}")
    texts = open_texts(value, token=token, held_out=True)
    prefix = prefix_of(tokenizer)
    body = seq_len - len(prefix)
    step = min(stride or body, body)
    if body < 1:
        raise ConfigError(f"seq_len must be at least {len(prefix) + 1} with this tokenizer, got {seq_len}")
    stream = tokenize(texts, tokenizer, limit=num_tokens, phase="evaluate", on_progress=on_progress)
    found = len(stream.tokens)
    if found < body:
        raise _too_short(texts.name, found + len(prefix), seq_len)
    notes = [*texts.notes, *([joined_by(stream.num_documents, tokenizer)] if stream.num_documents > 1 else [])]
    if found < num_tokens:
        notes.append(f"{found:,} tokens instead of {num_tokens:,}: that is all of {texts.name}")
    tokens = _cut(stream.tokens, prefix, body, step)
    refuse_foreign(tokens, vocab_size)
    # The first token of a text follows nothing, unless the tokenizer puts something before it.
    first = (max(1, len(prefix)), *[max(1, seq_len - step)] * (len(tokens) - 1))
    begins_with = " ".join(map(str, tokenizer.convert_ids_to_tokens(prefix)))
    return Windows(tokens, first, texts.name, fingerprint_of(tokens), step, begins_with, tuple(notes))


def written_windows(tokens: "torch.Tensor", notes: tuple[str, ...]) -> Windows:
    """Texts that the model wrote itself, each a window.

    Args:
        tokens: int64 [num_windows, seq_len].
        notes: how they were written.
    """
    return Windows(tokens, (1,) * len(tokens), "self", fingerprint_of(tokens), tokens.shape[1], notes=notes)


def _cut(tokens: Any, prefix: list[int], body: int, step: int) -> "torch.Tensor":
    """Windows of `body` tokens, one each `step`, each after the prefix: int64 [count, prefix + body]."""
    import torch

    windows = torch.from_numpy(tokens).unfold(0, body, step).long()  # [count, body]
    return torch.cat([torch.tensor(prefix).long().expand(len(windows), -1), windows], dim=1)


def _too_short(name: str, found: int, needed: int) -> ConfigError:
    return ConfigError(
        f"text: {name} makes {found} tokens, and one window takes {needed}: give a longer text, or a smaller seq_len"
    )
