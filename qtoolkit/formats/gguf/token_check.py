"""Compare the tokens that llama.cpp will make by the header of a `.gguf` file with those of the model's tokenizer."""

import json
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from qtoolkit.checkpoints.gguf_pre_tokenizers import names_of_splitting, splitting_named
from qtoolkit.checkpoints.gguf_vocabulary import SPACE, strips_blanks_after
from qtoolkit.checkpoints.panics import panics_as_errors
from qtoolkit.errors import UnsupportedModelError, oneline
from qtoolkit.formats.gguf.chat_templates import written_template
from qtoolkit.formats.gguf.vocabulary import changes_before, is_sentencepiece, prepends_by_metaspace
from qtoolkit.models.gguf_tokenizer import backend_of_header, scored_merges
from qtoolkit.noted import Noted

_PIECES = (
    "a",
    "Hello world",
    "HELLO There",
    "don't I'VE we'll",
    "The keeper wrote their letters there, in the other winter of the internet.",
    "unbelievable questions about international organizations",
    "foo.bar_baz(x_1, [y], {z})",
    "if x != 1_000:\n\treturn x ** 2  # done",
    "https://a.b/c?d=1&e=%20",
    "C:\\dir\\file.txt",
    "1",
    "1234567890",
    "3.14 10,000 1e-5",
    "\uff11\uff12 \u0663\u0664 \u00bd \u00b2",
    "---> <-- ==",
    "\"'`!?;:",
    "{}[]()<|>",
    "$^~+|#@&%",
    "...",
    "\u2026\u2014\u201cq\u201d \u3002\uff0c",
    "\u00e9\u00fc\u00df",
    "e\u0301 a\u0308",
    "\ufb01 \u0130 \u0131 \u01c5",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
    "\u4f60\u597d\u4e16\u754c",
    "\u65e5\u672c\u8a9e \u304b\u306a \u30ab\u30ca",
    "\ud55c\uad6d\uc5b4",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e44\u0e17\u0e22",
    "\U0001f600",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\U00010348\U0001d49c",
    "x\u00a0y\u2003z\u3000",
    "\u200b\ufeff",
    "\x00\x01\x7f\x85",
    "\n",
    "\r\n\r\n",
    "\t\t",
    " ",
    "   ",
    SPACE,
    f"{SPACE}{SPACE}a",
    "\u0120a \u010a",
    "<0x0A><0x41>",
    "<s></s>",
    "<unk> <pad>",
    "[PAD500]",
)
# Added tokens that are looked at, of the first, the last and the odd ones each.
_OF_EACH_KIND = 4


class Difference(NamedTuple):
    """Describe what llama.cpp does otherwise than a tokenizer, because no header can tell it.

    Attributes:
        what: it does, for a note.
        touches: whether a text may have other tokens for it.
    """

    what: str
    touches: Callable[[str], bool]


def notes_on_tokens(tokenizer: Any, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return notes on what a tokenizer does that no header can tell, so that llama.cpp does otherwise.

    Args:
        tokenizer: of the model, that `vocabulary_of` has described; None for a model without one.
        values: of the header.

    Raises:
        UnsupportedModelError: tokens differ, and nothing that is known explains it.
    """
    if tokenizer is None:
        return ()
    compared = compare_tokens(tokenizer, values)
    if compared.value:
        raise UnsupportedModelError(
            f"no .gguf file is written with this tokenizer: {compared.value}: give another as tokenizer="
        )
    return (*compared.notes, *_notes_on_templates(getattr(tokenizer, "chat_template", None)))


def compare_tokens(tokenizer: Any, values: Mapping[str, Any]) -> Noted[str]:
    """Tokenize some 200 odd texts both ways, by a tokenizer and as a header says.

    Args:
        tokenizer: of transformers, with a `tokenizer.json`.
        values: of the header.

    Returns:
        What differs though nothing that is known explains it, empty for nothing; with notes on what is known to differ.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    texts = odd_texts(described["added_tokens"])
    try:
        with panics_as_errors():
            merges = scored_merges(values) if values["tokenizer.ggml.model"] == "llama" else None
            others = _other_texts(tokenizer, values, texts, merges)
            differences = list(_differences(described, values, merges or ()))
    except Exception as error:  # noqa: BLE001  # the tokenizers library raises bare Exceptions
        return Noted(f"llama.cpp could not read it ({oneline(error)})")
    unexplained = [text for text in others if not any(difference.touches(text) for difference in differences)]
    if unexplained:
        seen = f"{len(unexplained)} of {len(texts)} odd texts, such as {unexplained[0]!r:.60}"
        return Noted(f"llama.cpp would make other tokens of {seen}")
    counts = [sum(map(difference.touches, others)) for difference in differences]
    seen_in = [f" ({count} of {len(texts)} odd texts have other tokens)" if count else "" for count in counts]
    return Noted("", tuple(one.what + seen for one, seen in zip(differences, seen_in, strict=True)))


def odd_texts(added: Collection[Mapping[str, Any]]) -> list[str]:
    """Return the texts that are tokenized both ways: blanks, digits, marks and scripts, and some added tokens.

    Args:
        added: the added tokens of a `tokenizer.json`.
    """
    odd = [one for one in added if any(one[key] for key in ("lstrip", "rstrip", "single_word", "normalized"))]
    known = [one["content"] for one in added]
    tokens = [*known[:_OF_EACH_KIND], *known[-_OF_EACH_KIND:], *(one["content"] for one in odd[:_OF_EACH_KIND])]
    texts = [""]
    for piece in (*_PIECES, *dict.fromkeys(tokens)):
        texts += [piece, f" {piece}", f"{piece}  x", f"x{piece}\n{piece}"]
    return texts


def _other_texts(
    tokenizer: Any, values: Mapping[str, Any], texts: list[str], merges: list[tuple[str, str]] | None
) -> list[str]:
    """Return the texts of which a header gives other tokens; none where it splits in a way that is not known here."""
    if values["tokenizer.ggml.model"] == "gpt2" and splitting_named(values.get("tokenizer.ggml.pre", "")) is None:
        return []
    written = backend_of_header(values, "the file", merges=merges).value
    return [text for text in texts if tokenizer.encode(text) != written.encode(text).ids]


def _differences(
    described: Mapping[str, Any], values: Mapping[str, Any], merges: Iterable[tuple[str, str]]
) -> Iterator[Difference]:
    """Yield what llama.cpp does otherwise."""
    if changes_before(described):
        what = "the tokenizer joins letters and marks that stand apart (NFC), and llama.cpp does not"
        yield Difference(
            f"{what}: such texts have other tokens there", lambda text: unicodedata.normalize("NFC", text) != text
        )
    yield from _of_added_tokens(described, values)
    if is_sentencepiece(described):
        yield from _of_sentencepiece(described, merges)
    elif not names_of_splitting(described):
        name = values["tokenizer.ggml.pre"]
        yield Difference(
            f"texts are split as llama.cpp's {name!r:.40}, by a hash of the tokenizer alone, and maybe not quite as "
            "the tokenizer does",
            lambda text: True,
        )


def _of_added_tokens(described: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield what llama.cpp does otherwise with added tokens, which it looks for in a text as it is."""
    added, name = described["added_tokens"], values.get("general.name", "")
    normalizer = described.get("normalizer")
    changes = normalizer is not None and normalizer.get("normalizers") != []
    found = {
        "keeps or drops blanks beside": [
            one for one in added if one["lstrip"] or one["rstrip"] != strips_blanks_after(name, one["content"])
        ],
        "finds within words, too,": [one for one in added if one["single_word"]],
        "finds before blanks and letters are changed": [one for one in added if one["normalized"] and changes],
    }
    if is_sentencepiece(described):
        blanks = [one for one in added if SPACE in one["content"] and not one["special"]]
        found[f"finds as blanks, and not as {SPACE!r},"] = blanks
    for what, ones in found.items():
        if ones:
            texts = [one["content"] for one in ones]
            more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
            shown = ", ".join(f"{text!r:.40}" for text in texts[:3])
            yield Difference(f"llama.cpp {what} the tokens {shown}{more}, otherwise than the tokenizer", _holds(texts))


def _holds(tokens: list[str]) -> Callable[[str], bool]:
    """Return what checks whether a text holds one of some tokens, in which blanks may be SentencePiece's."""
    marked = [token.replace(" ", SPACE) for token in tokens]
    return lambda text: any(token in f"{SPACE}{text.replace(' ', SPACE)}" for token in marked)


def _of_sentencepiece(described: Mapping[str, Any], merges: Iterable[tuple[str, str]]) -> Iterator[Difference]:
    """Yield what llama.cpp does otherwise with a tokenizer of SentencePiece."""
    if prepends_by_metaspace(described):
        within = _holds([one["content"] for one in described["added_tokens"]])
        yield Difference(
            "llama.cpp puts a blank before every text and after every added token, and the tokenizer none before a "
            "text that begins with one",
            lambda text: text[:1] in (" ", SPACE) or within(text),
        )
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in described["model"]["merges"])
    further = {*merges} - {(left, right) for left, right in pairs}
    if further:
        left, right = min(further)
        # A text of which that is seen is refused.
        yield Difference(
            f"llama.cpp merges {len(further)} pairs of tokens that the tokenizer does not, such as {left!r:.40} and "
            f"{right!r:.40}: rare texts may have other tokens there",
            lambda text: False,
        )


def _notes_on_templates(found: str | Mapping[str, str] | None) -> list[str]:
    """Return a note where chat templates have other names in the file."""
    names = {} if found is None or isinstance(found, str) else {name: written_template(name) for name in found}
    changed = ", ".join(f"{name!r:.40} as {new!r:.40}" for name, new in names.items() if name != new)
    return [f"chat templates have other names in the file: {changed}"] if changed else []
