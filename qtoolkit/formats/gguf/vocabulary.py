"""Describe a tokenizer to llama.cpp: its tokens and merges, how it splits a text, special tokens, chat template."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from qtoolkit.checkpoints.gguf_pre_tokenizers import names_of_splitting
from qtoolkit.checkpoints.gguf_vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    PHI3,
    PHI3_TOKENS,
    SPACE,
    SPECIAL_KEYS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from qtoolkit.checkpoints.gguf_writing import Value
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.gguf.chat_templates import templates_of
from qtoolkit.formats.gguf.pre_tokenizers import BY_HASH, CHECKED_TEXT

# Of tokens that no merge makes.
_LEAST_SCORE = -1e6
# Tokens that end an answer by their texts alone, `special_eog_ids` in llama.cpp's `llama-vocab.cpp`.
_KNOWN_ENDS = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "[e~[",
    ]
)


def name_of(model: str, tokenizer: Any) -> str:
    """Return the name of a model in a header: its own, unless llama.cpp would refuse the file for that.

    llama.cpp's converter writes all names with spaces, "Phi 3", which it does not take for Phi-3.

    Args:
        model: the name.
        tokenizer: of the model; None for one without, of which nothing is looked up.
    """
    if not PHI3.search(model) or tokenizer is None:
        return model
    if all(token in tokenizer.get_vocab() for token in PHI3_TOKENS):
        return model
    return PHI3.sub(lambda found: f"{found[0][:3]} 3", model)


def further_ends(tokenizer: Any, ends: Any) -> dict[str, Value]:
    """Return the values that name tokens that end an answer, besides the tokenizer's own.

    llama.cpp knows many by their texts, and has places for two more; its converter names none.

    Args:
        tokenizer: of the model; None for one without.
        ends: a config's `eos_token_id`: a number, a list of them, or None.
    """
    if tokenizer is None or not isinstance(ends, list):
        return {}
    others = [
        number
        for number in ends
        if number != tokenizer.eos_token_id and tokenizer.convert_ids_to_tokens(number) not in _KNOWN_ENDS
    ]
    places = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
    return {place: Value("uint32", number) for place, number in zip(places, others, strict=False)}


def vocabulary_of(tokenizer: Any, vocab_size: int) -> dict[str, Value]:
    """Return the values of a file's header that describe a tokenizer.

    Args:
        tokenizer: of transformers, with a `tokenizer.json`; None for a model without one.
        vocab_size: rows of the token embedding; tokens that the tokenizer lacks are filled up as unused.

    Raises:
        UnsupportedModelError: llama.cpp has no such tokenizer, or it is not known which of its kinds this is.
    """
    if tokenizer is None:
        return {"tokenizer.ggml.model": Value("string", "none")}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedModelError(
            f"no .gguf file is written with the tokenizer {type(tokenizer).__name__}, which has no tokenizer.json: "
            "give another as tokenizer="
        )
    described = json.loads(backend.to_str())
    model = described["model"]
    if model["type"] != "BPE":
        raise UnsupportedModelError(
            f"no .gguf file is written with a tokenizer of the type {model['type']}: those of merges (BPE) are"
        )
    if affixes := [key for key in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]:
        raise UnsupportedModelError(
            f"no .gguf file is written with this tokenizer: its tokens are marked within words ({', '.join(affixes)}), "
            "and llama.cpp's are not"
        )
    others = [kind for kind in changes_before(described) if kind != "NFC"]
    if others:
        raise UnsupportedModelError(
            f"no .gguf file is written with this tokenizer: it changes a text before ({', '.join(others)}), which "
            "llama.cpp does not"
        )
    tokens = _tokens(tokenizer, described, vocab_size)
    values = _sentencepiece(described, tokens) if is_sentencepiece(described) else _byte_level(tokenizer, described)
    values["tokenizer.ggml.tokens"] = Value("string", tuple(text for text, _ in tokens))
    values["tokenizer.ggml.token_type"] = Value("int32", tuple(kind for _, kind in tokens))
    return values | _special(tokenizer, described, vocab_size)


def is_sentencepiece(described: Mapping[str, Any]) -> bool:
    """Check whether a tokenizer is SentencePiece's, with tokens for bytes, and writes no bytes as letters.

    Args:
        described: its `tokenizer.json`.
    """
    whole_bytes = any(step.get("type") == "ByteLevel" for step in _splits(described))
    return bool(described["model"].get("byte_fallback")) and not whole_bytes


def _splits(described: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the steps that split a text before it is tokenized."""
    pre = described.get("pre_tokenizer")
    return [] if pre is None else list(pre.get("pretokenizers", [pre]))


def changes_before(described: Mapping[str, Any]) -> list[str]:
    """Return the kinds of changes of a text before it is tokenized, those of SentencePiece's blanks left out.

    Args:
        described: a `tokenizer.json`.
    """
    normalizer = described.get("normalizer")
    parts = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    sentencepiece = is_sentencepiece(described)
    blanks = [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    return [part["type"] for part in parts if not (sentencepiece and part in blanks)]


def _tokens(tokenizer: Any, described: Mapping[str, Any], vocab_size: int) -> list[tuple[str, int]]:
    """Return the text and the type of each token.

    Raises:
        UnsupportedModelError: the tokenizer has more tokens than the model.
    """
    texts = {number: text for text, number in tokenizer.get_vocab().items()}
    if max(texts, default=0) >= vocab_size:
        raise UnsupportedModelError(
            f"the tokenizer has the token {max(texts)}, and the model {vocab_size} tokens: give its own as tokenizer="
        )
    added = {token["id"]: token for token in described["added_tokens"]}
    sentencepiece = is_sentencepiece(described)
    unknown = described["model"].get("unk_token")
    tokens = []
    for number in range(vocab_size):
        text = texts.get(number)
        if text is None:
            tokens.append((f"[PAD{number}]", UNUSED))
        elif sentencepiece and text == unknown:
            tokens.append((text, UNKNOWN))
        elif number in added:
            control = added[number]["special"] or _looks_special(text)
            # llama.cpp looks for them before blanks become SentencePiece's.
            own = text.replace(SPACE, " ") if sentencepiece else text
            tokens.append((text, CONTROL) if control else (own, USER_DEFINED))
        elif sentencepiece and _is_byte(text):
            tokens.append((text, BYTE))
        else:
            tokens.append((text, NORMAL))
    return tokens


def _looks_special(text: str) -> bool:
    """Check whether a token is special that is not marked so; llama.cpp's `does_token_look_special`."""
    ends = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
    named = text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
    return named or any(text.startswith(first) and text.endswith(last) for first, last in ends)


def _is_byte(text: str) -> bool:
    """Check whether a token stands for a byte, "<0x0A>"."""
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _byte_level(tokenizer: Any, described: Mapping[str, Any]) -> dict[str, Value]:
    """Return the values of a tokenizer that merges bytes, as GPT-2's.

    Raises:
        UnsupportedModelError: it splits a text in a way that llama.cpp has no name of.
    """
    # The patterns tell more than the hash: SmolLM's is that of GPT-2's splitting too, which keeps digits together.
    names = names_of_splitting(described)
    hashed = BY_HASH.get(sha256(str(tokenizer.encode(CHECKED_TEXT)).encode()).hexdigest())
    name = hashed if hashed in names or not names else names[0]
    if name is None:
        raise UnsupportedModelError(
            "no .gguf file is written with this tokenizer: llama.cpp has no name of the way in which it splits a text"
        )
    # A space in a merge is written as the letter that stands for it.
    merges = [
        pair if isinstance(pair, str) else " ".join(part.replace(" ", "\u0120") for part in pair)
        for pair in described["model"]["merges"]
    ]
    return {
        "tokenizer.ggml.model": Value("string", "gpt2"),
        "tokenizer.ggml.pre": Value("string", name),
        "tokenizer.ggml.merges": Value("string", tuple(merges)),
    }


def _sentencepiece(described: Mapping[str, Any], tokens: list[tuple[str, int]]) -> dict[str, Value]:
    """Return the values of a tokenizer of SentencePiece: llama.cpp merges the pair whose token has the highest score.

    SentencePiece gives each token a score, by which its pairs are sorted in a `tokenizer.json`. So the score here is
    minus the rank of the first pair.

    Raises:
        UnsupportedModelError: it splits a text before, or lacks tokens of bytes; or pairs of one token stand apart, so
            that no scores sort them.
    """
    _refuse_splits(described)
    texts = {text for text, _ in tokens}
    missing = [text for text in (f"<0x{byte:02X}>" for byte in range(256)) if text not in texts]
    if missing:
        raise UnsupportedModelError(
            f"no .gguf file is written with this tokenizer: it has bytes as SentencePiece has, and lacks "
            f"{len(missing)} of their 256 tokens, such as {missing[0]}"
        )
    ranks: dict[str, int] = {}
    before = ""
    for rank, pair in enumerate(described["model"]["merges"]):
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        if left + right in ranks and left + right != before:
            raise UnsupportedModelError(
                f"no .gguf file is written with this tokenizer: it has bytes as SentencePiece has, and no order of "
                f"tokens tells which pairs merge first ({left + right!r})"
            )
        before = left + right
        ranks.setdefault(before, rank)
    scores = [float(-ranks[text]) if text in ranks else _LEAST_SCORE for text, _ in tokens]
    return {
        "tokenizer.ggml.model": Value("string", "llama"),
        "tokenizer.ggml.pre": Value("string", "default"),
        "tokenizer.ggml.scores": Value("float32", tuple(scores)),
        "tokenizer.ggml.add_space_prefix": Value("bool", _adds_space(described)),
    }


def prepends_by_metaspace(described: Mapping[str, Any]) -> bool:
    """Check whether a step that splits puts a space before a text, unless the text begins with one.

    Args:
        described: a `tokenizer.json`.
    """
    steps = (step for step in _splits(described) if step.get("type") == "Metaspace")
    return any(step.get("prepend_scheme", "always") != "never" for step in steps)


def _refuse_splits(described: Mapping[str, Any]) -> None:
    """Refuse a tokenizer of SentencePiece that splits a text before, but for what stands for its blanks.

    Gemma's splits at blanks, of which there are none by then.
    """
    gemma = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    others = [
        str(step.get("type"))
        for step in _splits(described)
        if step != gemma and (step.get("type"), step.get("replacement")) != ("Metaspace", SPACE)
    ]
    if others:
        raise UnsupportedModelError(
            f"no .gguf file is written with this tokenizer: it has bytes as SentencePiece has, and splits a text "
            f"before ({', '.join(others)}), which llama.cpp does not"
        )


def _adds_space(described: Mapping[str, Any]) -> bool:
    """Check whether a tokenizer of SentencePiece puts a space before each text."""
    normalizer = described.get("normalizer") or {}
    parts = normalizer.get("normalizers", [normalizer])
    return prepends_by_metaspace(described) or any(part.get("type") == "Prepend" for part in parts)


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that are put before and after each text.

    Raises:
        UnsupportedModelError: others than one of its begin and one of its end.
    """
    plain, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
    starts = range(len(whole) - len(plain) + 1)
    at = next((start for start in starts if whole[start : start + len(plain)] == plain), None)
    before, after = ([], []) if at is None else (whole[:at], whole[at + len(plain) :])
    if at is None or before not in ([], [tokenizer.bos_token_id]) or after not in ([], [tokenizer.eos_token_id]):
        raise UnsupportedModelError(
            f"its tokenizer makes {whole} of a text whose tokens are {plain}: a .gguf file tells of its begin token "
            f"{tokenizer.bos_token_id} and its end token {tokenizer.eos_token_id} around a text alone"
        )
    return before, after


def _special(tokenizer: Any, described: Mapping[str, Any], vocab_size: int) -> dict[str, Value]:
    """Return the numbers of special tokens, which are added to each text, and the chat template."""
    values = {}
    for kind, key in SPECIAL_KEYS.items():
        number = getattr(tokenizer, f"{kind}_token_id", None)
        if isinstance(number, int) and 0 <= number < vocab_size:
            values[key] = Value("uint32", number)
    before, after = _around(tokenizer)
    values["tokenizer.ggml.add_bos_token"] = Value("bool", bool(before))
    values["tokenizer.ggml.add_eos_token"] = Value("bool", bool(after))
    return values | templates_of(getattr(tokenizer, "chat_template", None))
