"""Checks that a folder runs no code at those who load it, and tells nothing of those who made it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from qtoolkit.checkpoints.names import PICKLE_SUFFIXES
from qtoolkit.files import read_json
from qtoolkit.publishing.artifact import Artifact
from qtoolkit.publishing.file_checks import of
from qtoolkit.publishing.patterns import SECRETS, local_paths
from qtoolkit.records import Check

_PICKLES = (*PICKLE_SUFFIXES, ".pickle", ".joblib", ".npy", ".npz", ".h5", ".keras", ".msgpack")
_CODE = (
    *(".py", ".pyc", ".pyx", ".ipynb", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1", ".js", ".jar"),
    *(".zip", ".tar", ".gz", ".7z", ".whl"),
)
_CONFIGS = "config.json"
# Keys by which transformers takes code from a repository, and peft a class from a package.
_CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate", "auto_mapping")
# Those by which it takes a program of its own, or one from a repository, "org/name" or "org/name:function".
_KERNEL_KEYS = ("_implementation", "_implementation_internal", "kernel_config")
_WEIGHTS = (".safetensors", ".gguf")
# Vocabularies: words of the world, paths among them.
_VOCABULARIES = ("vocab.json", "vocab.txt", "merges.txt", "tekken.json")
_READ_AT_MOST = 200_000_000
# No option of a config is as long; a chat template may be.
_LONGEST_TEXT = 2_000
_LONG_KEYS = ("chat_template",)


def check_pickles(artifact: Artifact) -> Check:
    """Whether no file is a pickle, by its name or by its first bytes."""
    problems = []
    for name in artifact.names:
        # Where names are read without regard to case, EVIL.PY is evil.py.
        if name.lower().endswith(_PICKLES):
            problems.append(f"{name} is a pickle by its name")
        elif _starts_as_pickle(artifact.path / name):
            problems.append(f"{name} begins as a pickle")
    return of("no pickles", problems, f"{len(artifact.names)} files", "remove it: unpickling runs code")


def check_code(artifact: Artifact) -> Check:
    """Whether no file is a program, and no config asks for one."""
    problems = [f"{name} is a program or an archive" for name in artifact.names if name.lower().endswith(_CODE)]
    for name in artifact.names:
        if name.lower().endswith(_CONFIGS):
            entries = _entries(read_json(artifact.path / name))
            problems += [
                f"{name} has {_told(place, value)}" for place, value in entries if _asks_for_code(place, value)
            ]
    return of("no code", problems, "none, and no config asks for it", "remove it: loading would run it")


def check_secrets(artifact: Artifact) -> Check:
    """Whether no file holds what looks like a key or a token. None is ever shown."""
    problems = [
        f"{name} holds what looks like {kind}"
        for name, text in _texts(artifact)
        for kind, pattern in SECRETS.items()
        if pattern.search(text)
    ]
    return of("no secrets", problems, "none", "remove it and revoke it: who has seen the file has it")


def check_paths(artifact: Artifact) -> Check:
    """Whether no file names a folder of somebody's machine."""
    pattern, problems = local_paths(), []
    for name, text in _texts(artifact):
        found = None if _is_vocabulary(name) else pattern.search(_without_vocabulary(name, text))
        if found:
            problems.append(f"{name} holds a local path ({found[0].decode(errors='replace')}...)")
    return of("no local paths", problems, "none", "correct the file: it tells where and by whom it was made")


def check_calibration_text(artifact: Artifact) -> Check:
    """Whether the configs hold no calibration text: transformers' own GPTQ writes it into config.json."""
    problems = []
    for name in artifact.names:
        if name.lower().endswith(_CONFIGS):
            for place, value in _entries(read_json(artifact.path / name)):
                key = place.rpartition(".")[2]
                if key in ("dataset", "calibration", "calibration_dataset") and not isinstance(value, str | None):
                    problems.append(f"{name} holds {place}, {len(value) if hasattr(value, '__len__') else 1} entries")
                elif isinstance(value, str) and len(value) > _LONGEST_TEXT and key not in _LONG_KEYS:
                    problems.append(f"{name} holds a text of {len(value)} characters, {place}")
    return of("no calibration text", problems, "none", "remove it: it may be private, and no reader needs it")


def _starts_as_pickle(file: Path) -> bool:
    with file.open("rb") as stream:
        start = stream.read(64)
    # Protocols 2 to 5; and torch.save, a zip archive whose first member is NAME/data.pkl.
    return (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05") or (start[:2] == b"PK" and b"data.pkl" in start)


def _texts(artifact: Artifact) -> Iterator[tuple[str, bytes]]:
    """Every file but the tensors; of a weight file, its header."""
    for name in artifact.names:
        with (artifact.path / name).open("rb") as stream:
            # Python sets aside at once as much memory as it is asked to read.
            most = min(os.fstat(stream.fileno()).st_size, _READ_AT_MOST)
            if name.lower().endswith(_WEIGHTS):
                length = int.from_bytes(stream.read(8), "little")
                yield name, stream.read(min(length, most))
            else:
                yield name, stream.read(most)


def _is_vocabulary(name: str) -> bool:
    return PurePosixPath(name).name in _VOCABULARIES or name.endswith(".model")


def _without_vocabulary(name: str, text: bytes) -> bytes:
    """A tokenizer's file without its words; nothing is built of it, for any may be given."""
    if PurePosixPath(name).name != "tokenizer.json":
        return text
    kept, depth, start = [], 0, 0
    key = b""
    for token in _TOKENS.finditer(text):
        sign = token[0]
        if sign in b"]}":
            depth -= 1
            if depth == 1 and key in _WORDS:
                # From here on: what stood before was put aside when the list began.
                start = token.end()
        elif sign in b"[{":
            depth += 1
            if depth == 2 and key in _WORDS:
                kept.append(text[start : token.start()])
                start = len(text)
        elif depth == 1:
            key = sign
    # A file that is no JSON is looked at whole.
    return b"".join([*kept, text[start:]]) if depth == 0 else text


# Texts and brackets: enough to know where in a JSON file one is. A text is never looked at twice.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
_WORDS = (b'"model"', b'"added_tokens"')


def _asks_for_code(place: str, value: Any) -> bool:
    """Whether transformers would take a program from a repository for an option of a config."""
    key = place.rpartition(".")[2]
    if key in _CODE_KEYS:
        return bool(value)
    # In the config of a part, or in a dict of parts: "_attn_implementation.text_config".
    inside = any(part.endswith(_KERNEL_KEYS) for part in place.split("."))
    return inside and isinstance(value, str) and "/" in value


def _told(place: str, value: Any) -> str:
    return f"{place} {value!r:.60}" if isinstance(value, str) else place


def _entries(values: Any) -> Iterator[tuple[str, Any]]:
    """Everything in nested dicts with its place, "quantization_config.dataset"; of lists in them the texts as well.

    Of a place the last hundred letters are kept. No recursion: values may be nested as deep as Python reads them.
    """
    left: list[Iterator[tuple[str, Any, bool]]] = [iter([("", values, False)])]
    while left:
        entry = next(left[-1], None)
        if entry is None:
            left.pop()
            continue
        place, value, is_told = entry
        if is_told:
            yield place, value
        if isinstance(value, dict):
            left.append(_items(place, value))
        elif isinstance(value, list):
            left.append(_texts_of(place, value))


def _items(place: str, values: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    for key, value in values.items():
        yield (f"{place}.{key}" if place else key)[-100:], value, True


def _texts_of(place: str, values: list[Any]) -> Iterator[tuple[str, Any, bool]]:
    for value in values:
        yield place, value, isinstance(value, str)
