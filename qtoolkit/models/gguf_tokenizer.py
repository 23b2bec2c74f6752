"""Make the tokenizer that the header of a `.gguf` file describes, so that it cuts a text as llama.cpp does.

Kinds of which llama.cpp knows more than merges, such as T5's, are left to transformers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.gguf_header import read_gguf
from qtoolkit.checkpoints.gguf_pre_tokenizers import BEGIN_BY_DEFAULT, Splitting, splitting_named
from qtoolkit.checkpoints.gguf_vocabulary import (
    CONTROL,
    NORMAL,
    SPACE,
    SPECIAL_KEYS,
    TEMPLATE_KEY,
    TEMPLATES_KEY,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    WHOLE_KEYS,
    strips_blanks_after,
)
from qtoolkit.noted import Noted

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

# llama.cpp's names of the kinds that are merges alone -> what tells which pairs merge first.
MERGING = {"gpt2": "tokenizer.ggml.merges", "llama": "tokenizer.ggml.scores"}
# What llama.cpp takes where a file says nothing, and what is taken where it says what is not known here.
_UNNAMED, _GUESSED = "default", "gpt-2"
_ADVICE = "token ids may differ from the original's: give its tokenizer as tokenizer="


def tokenizer_of_gguf(file: Path) -> Noted[Any]:
    """Make the tokenizer of a `.gguf` file.

    Args:
        file: the file, the first one of several parts.

    Returns:
        The tokenizer, with a note where the file does not say how a text is split, or says what is not known here.

    Raises:
        Exception: of any kind, for a header that describes none.
    """
    header = read_gguf(file, whole=WHOLE_KEYS)
    if further := _further_templates(header.values):
        header = read_gguf(file, whole=WHOLE_KEYS | {*further})
    if header.values["tokenizer.ggml.model"] not in MERGING:
        return Noted(_by_transformers(file))
    rows = header.shapes.get("token_embd.weight", (None,))[0]
    backend = backend_of_header(header.values, file.name, rows=rows)
    return Noted(_wrapped(backend.value, _complete_values(header.values)), backend.notes)


def backend_of_header(
    header: Mapping[str, Any], name: str, *, rows: int | None = None, merges: list[tuple[str, str]] | None = None
) -> Noted["Tokenizer"]:
    """Make what tokenizes as the values of a header say, by merges.

    Args:
        header: the values, with all tokens; `tokenizer.ggml.model` is one of `MERGING`.
        name: of the file.
        rows: of the token embedding; None where it is not known.
        merges: what `scored_merges` returns of the header; None to ask it.

    Returns:
        A tokenizer of the library tokenizers, with a note as of `tokenizer_of_gguf`.

    Raises:
        Exception: of any kind, for a header that describes none.
    """
    values = _complete_values(header)
    _refuse_impossible(values, rows)
    if values["tokenizer.ggml.model"] == "llama":
        backend = _sentencepiece(values, scored_merges(values) if merges is None else merges)
        notes: tuple[str, ...] = ()
    else:
        splitting, notes = _splitting(name, values)
        backend = _byte_level(values, splitting)
    backend.add_tokens(_added(values))
    return Noted(backend, notes)


def _complete_values(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a header without tokens that belong to no text, and with a type of each token."""
    tokens = _used(header)
    types = {"tokenizer.ggml.token_type": [NORMAL] * len(tokens)}
    return types | dict(header) | {"tokenizer.ggml.tokens": tokens}


def _refuse_impossible(values: Mapping[str, Any], rows: int | None) -> None:
    """Refuse values that describe no tokenizer; an error names the first.

    Args:
        values: of a header.
        rows: of the token embedding; None where it is not known.
    """
    count = len(values["tokenizer.ggml.tokens"])
    needed = MERGING[values["tokenizer.ggml.model"]]
    if needed not in values:
        raise ValueError(f"it has no {needed}")
    if rows is not None and count > rows:
        raise ValueError(f"it has {count} tokens, and the embedding {rows} rows")
    for key in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
        if key in values and len(values[key]) < count:
            raise ValueError(f"it has {count} tokens, and {len(values[key])} values in {key}")
    for kind in ("bos", "eos"):
        number = values.get(SPECIAL_KEYS[kind])
        if number is not None and number not in range(count):
            raise ValueError(f"{SPECIAL_KEYS[kind]} is {number}, and it has {count} tokens")


def _splitting(name: str, values: Mapping[str, Any]) -> tuple[Splitting, tuple[str, ...]]:
    """Return how a text is split, and a note where that is a guess.

    Args:
        name: of the file.
        values: of its header.
    """
    named = values.get("tokenizer.ggml.pre")
    splitting = splitting_named(named or _UNNAMED)
    if splitting is None:
        splitting = splitting_named(_GUESSED)
        what = f"{name} splits texts as {named!r:.80}, which is not known here"
        note = f"{what}: they are split as GPT-2 does, and {_ADVICE}"
    elif not named or named == _UNNAMED:
        note = f"{name} does not say how texts are split: they are split as llama.cpp does then, and {_ADVICE}"
    else:
        note = ""
    assert splitting is not None
    return splitting, (note,) if note else ()


def _byte_level(values: Mapping[str, Any], splitting: Splitting) -> "Tokenizer":
    """Return a tokenizer that merges bytes, as GPT-2's.

    Args:
        values: of the header.
        splitting: how a text is split before.
    """
    from tokenizers import models

    steps = [_complete(step) for step in splitting.steps]
    backend = _without_tokens(
        pre_tokenizer=steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps},
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        post_processor=_around(values),
    )
    # A merge is two tokens with a space between, none of which is empty.
    ends = [(merge, merge.find(" ", 1)) for merge in values["tokenizer.ggml.merges"]]
    merges = [(merge[:end], merge[end + 1 :]) for merge, end in ends]
    backend.model = models.BPE(_numbered(values), merges, ignore_merges=splitting.ignore_merges)
    return backend


def _sentencepiece(values: Mapping[str, Any], merges: list[tuple[str, str]]) -> "Tokenizer":
    """Return a tokenizer that merges characters, the pair first whose token has the highest score.

    As Llama 2's `tokenizer.json` does, each text between two added tokens gets a space before it, unless the header
    says otherwise.

    Args:
        values: of the header.
    """
    from tokenizers import models

    changed: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    joined: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if values.get("tokenizer.ggml.add_space_prefix", True):
        changed.insert(0, {"type": "Prepend", "prepend": SPACE})
        joined.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    backend = _without_tokens(
        normalizer={"type": "Sequence", "normalizers": changed},
        decoder={"type": "Sequence", "decoders": joined},
        post_processor=_around(values),
    )
    kinds = zip(values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"], strict=False)
    backend.model = models.BPE(
        _numbered(values),
        merges,
        unk_token=next((text for text, kind in kinds if kind == UNKNOWN), None),
        fuse_unk=True,
        byte_fallback=True,
    )
    return backend


def _without_tokens(**steps: Any) -> "Tokenizer":
    """Return a tokenizer with these steps of a `tokenizer.json`, and no tokens yet."""
    from tokenizers import Tokenizer, models

    return Tokenizer.from_str(json.dumps(json.loads(Tokenizer(models.BPE()).to_str()) | steps))


def _numbered(values: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of each token."""
    return {text: number for number, text in enumerate(values["tokenizer.ggml.tokens"])}


def scored_merges(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs of tokens that make another, those first whose token has a higher score.

    Args:
        values: of the header of a file whose tokenizer is SentencePiece's.
    """
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    scores, numbers = values["tokenizer.ggml.scores"], _numbered(values)
    made = [number for number, kind in enumerate(types[: len(tokens)]) if kind == NORMAL]
    made.sort(key=lambda number: -scores[number])
    return [
        (text[:end], text[end:])
        for text in (tokens[number] for number in made)
        for end in range(1, len(text))
        if text[:end] in numbers and text[end:] in numbers
    ]


def _complete(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step of a `tokenizer.json` with what only offsets need."""
    return {**step, "trim_offsets": True} if step["type"] == "ByteLevel" else dict(step)


def _used(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tokens without those that fill up the embedding at its end, "[PAD50000]", which belong to no text."""
    tokens: tuple[str, ...] = values["tokenizer.ggml.tokens"]
    types = values.get("tokenizer.ggml.token_type", ())
    count = len(tokens)
    while 0 < count <= len(types) and types[count - 1] == UNUSED and tokens[count - 1] == f"[PAD{count - 1}]":
        count -= 1
    return tokens[:count]


def _special(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens, "bos" and others, of which a header tells the numbers."""
    tokens = values["tokenizer.ggml.tokens"]
    numbers = {kind: values.get(key) for kind, key in SPECIAL_KEYS.items()}
    return {kind: tokens[number] for kind, number in numbers.items() if number in range(len(tokens))}


def _around(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the step of a `tokenizer.json` that puts a header's begin and end tokens around each text; None without.

    Args:
        values: of the header.
    """
    special = _special(values)
    by_default = values["tokenizer.ggml.model"] == "llama" or values.get("tokenizer.ggml.pre") in BEGIN_BY_DEFAULT
    begins = values.get("tokenizer.ggml.add_bos_token", by_default)
    before = special.get("bos") if begins else None
    after = special.get("eos") if values.get("tokenizer.ggml.add_eos_token") else None
    if before is None and after is None:
        return None
    single, second = (
        [
            *([{"SpecialToken": {"id": before, "type_id": number}}] if before is not None else []),
            {"Sequence": {"id": "AB"[number], "type_id": number}},
            *([{"SpecialToken": {"id": after, "type_id": number}}] if after is not None else []),
        ]
        for number in range(2)
    )
    numbers = _numbered(values)
    ids = {token: numbers[token] for token in (before, after) if token is not None}
    stored = {token: {"id": token, "ids": [number], "tokens": [token]} for token, number in ids.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, *second], "special_tokens": stored}


def _added(values: Mapping[str, Any]) -> "list[AddedToken]":
    """Return the tokens that llama.cpp looks for in a text before it is split."""
    from tokenizers import AddedToken

    name = values.get("general.name", "")
    return [
        AddedToken(text, normalized=False, special=kind != USER_DEFINED, rstrip=strips_blanks_after(name, text))
        for text, kind in zip(values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"], strict=False)
        if kind in {CONTROL, USER_DEFINED, UNKNOWN}
    ]


def _wrapped(backend: "Tokenizer", values: Mapping[str, Any]) -> Any:
    """Return a tokenizer of transformers, with special tokens and the chat template.

    Args:
        backend: cuts and joins text.
        values: of the header.
    """
    from transformers import PreTrainedTokenizerFast

    special = {f"{kind}_token": text for kind, text in _special(values).items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=_templates(values), **special)


def _further_templates(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of each chat template beside the one for all uses, by its key in the header."""
    return {f"{TEMPLATE_KEY}.{name}": name for name in values.get(TEMPLATES_KEY, ()) if isinstance(name, str)}


def _templates(values: Mapping[str, Any]) -> str | dict[str, str] | None:
    """Return the chat template of a header, or several by their names; None without."""
    keys = {TEMPLATE_KEY: "default"} | _further_templates(values)
    found = {name: values[key] for key, name in keys.items() if isinstance(values.get(key), str)}
    return found.get("default") if {*found} <= {"default"} else found


def _by_transformers(file: Path) -> Any:
    """Let transformers make a tokenizer of another kind."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        return AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False, gguf_file=file.name)
    except ValueError:
        # It looks for the kind of model first, of which transformers knows fewer than of tokenizers.
        return PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
