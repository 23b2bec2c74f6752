"""Tokenize a text lazily, up to a given number of tokens."""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.panics import panics_as_errors
from qtoolkit.errors import SourceError, oneline
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.texts.texts import PIECE, Texts, cut

if TYPE_CHECKING:
    import numpy as np

# A token of ordinary text has about 4 characters: that many are tokenized at once per missing token, up to `_BATCH`.
_CHARACTERS_PER_TOKEN = 4
_BATCH = 10 * PIECE


@dataclass(frozen=True)
class TokenStream:
    """Hold the tokens of a text.

    Attributes:
        tokens: int32 [tokens].
        is_complete: whether they are all of the text; otherwise they are its beginning.
        num_documents: number of documents that they come from.
        num_joins: end-of-text tokens that were put between them.
    """

    tokens: "np.ndarray[Any, np.dtype[np.int32]]"
    is_complete: bool
    num_documents: int
    num_joins: int


def tokenize(
    texts: Texts, tokenizer: Any, *, prefix: list[int], limit: int, phase: str, on_progress: OnProgress
) -> TokenStream:
    """Return the first `limit` tokens of a text, with no special tokens but the end-of-text token between documents.

    Documents that a chat template wrote, or that were written for training, have special tokens of their own: what the
    tokenizer puts before every text is left out at their beginning, since each sample and window begins with it, and
    after one that ends with the end-of-text token no second one follows.

    A long document is tokenized in pieces, so that memory never holds all of its text.

    Args:
        texts: the text.
        tokenizer: the model's; one without an end-of-text token joins documents as they are.
        prefix: tokens that the tokenizer puts before every text.
        limit: tokens after which reading stops.
        phase: of the job, for its progress.
        on_progress: called with the tokens so far; what it raises stops the reading.
    """
    import numpy as np

    parts = [np.empty(0, np.int32)]
    count = num_documents = num_joins = 0
    is_complete = has_ended = False
    with closing(_pieces(texts)) as pieces:
        while count < limit:
            batch = _take(pieces, min(_CHARACTERS_PER_TOKEN * (limit - count), _BATCH))
            if not batch:
                is_complete = True
                break
            try:
                with panics_as_errors():
                    strings = [text for text, _ in batch]
                    encoded = tokenizer(strings, add_special_tokens=False, return_attention_mask=False, verbose=False)[
                        "input_ids"
                    ]
            except Exception as error:  # the tokenizers library raises bare Exceptions
                what = f"the tokenizer cannot read {texts.name} ({oneline(error)})"
                raise SourceError(f"{what}: give another one as tokenizer=") from error
            for (text, begins), ids in zip(batch, encoded, strict=True):
                if begins and num_documents and not has_ended and tokenizer.eos_token_id is not None:
                    parts.append(np.array([tokenizer.eos_token_id], np.int32))
                    num_joins += 1
                num_documents += begins
                has_ended = bool(tokenizer.eos_token) and text.rstrip().endswith(tokenizer.eos_token)
                is_doubled = begins and len(prefix) > 0 and ids[: len(prefix)] == prefix
                parts.append(np.array(ids[len(prefix) :] if is_doubled else ids, np.int32))
            count = sum(map(len, parts))
            total = limit if texts.is_stream else 0
            on_progress(ProgressEvent(phase, min(count, limit), total, unit="tokens", detail=texts.name))
    return TokenStream(np.concatenate(parts)[:limit], is_complete, num_documents, num_joins)


def _pieces(texts: Texts) -> Generator[tuple[str, bool], None, None]:
    """Yield the text in pieces, each with whether a document begins with it."""
    with closing(texts.documents()) as documents:
        for document in documents:
            begins = True
            for piece in cut(document):
                yield piece, begins
                begins = False


def _take(pieces: Iterator[tuple[str, bool]], characters: int) -> list[tuple[str, bool]]:
    """Return the next pieces, until they have that many characters together."""
    taken = []
    while characters > 0 and (piece := next(pieces, None)):
        taken.append(piece)
        characters -= len(piece[0])
    return taken
