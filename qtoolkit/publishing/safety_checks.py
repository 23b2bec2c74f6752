"""Check that a folder runs no code on the machine that loads it, and reveals nothing of who made it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from qtoolkit.checkpoints.filenames import PICKLE_SUFFIXES
from qtoolkit.files import read_json
from qtoolkit.publishing.artifact import Artifact
from qtoolkit.publishing.file_checks import check_of
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
# Keys by which it chooses a kernel: one of its own, or one from a repository, "org/name" or "org/name:function".
_KERNEL_KEYS = ("_implementation", "_implementation_internal", "kernel_config")
_WEIGHTS = (".safetensors", ".gguf")
# Vocabularies, whose words may look like paths.
_VOCABULARIES = ("vocab.json", "vocab.txt", "merges.txt", "tekken.json")
_READ_AT_MOST = 200_000_000
# Characters of a text in a config; no option is as long, but a chat template may be.
_LONGEST_TEXT = 2_000
_LONG_KEYS = ("chat_template",)


def check_pickles(artifact: Artifact) -> Check:
    """Check that no file is a pickle, by its name or by its first bytes."""
    problems = []
    for name in artifact.names:
        # Some file systems ignore case: EVIL.PY is evil.py there.
        if name.lower().endswith(_PICKLES):
            problems.append(f"{name} is a pickle by its name")
        elif _starts_as_pickle(artifact.path / name):
            problems.append(f"{name} begins as a pickle")
    return check_of(
        "no pickles",
        problems,
        f"none among all {len(artifact.names)} files of the folder",
        "remove it: unpickling runs code",
    )


def check_code(artifact: Artifact) -> Check:
    """Check that no file is a program, and no config asks for one."""
    problems = [f"{name} is a program or an archive" for name in artifact.names if name.lower().endswith(_CODE)]
    problems += [
        f"{name} has {f'{key} {value!r:.60}' if isinstance(value, str) else key}"
        for name, key, value in _config_entries(artifact)
        if _asks_for_code(key, value)
    ]
    return check_of("no code", problems, "none, and no config asks for it", "remove it: loading would run it")


def check_secrets(artifact: Artifact) -> Check:
    """Check that no file holds what looks like a key or a token. None is ever shown."""
    problems = [
        f"{name} holds what looks like {kind}"
        for name, text in _texts(artifact)
        for kind, pattern in SECRETS.items()
        if pattern.search(text)
    ]
    return check_of("no secrets", problems, "none", "remove it and revoke it: who has seen the file has it")


def check_paths(artifact: Artifact) -> Check:
    """Check that no file names a folder of somebody's machine; vocabularies hold such words, and are left out."""
    pattern = local_paths()
    problems = []
    for name, text in _texts(artifact):
        own_name = PurePosixPath(name).name
        if own_name in _VOCABULARIES or name.endswith(".model"):
            continue
        match = pattern.search(_without_vocabulary(text) if own_name == "tokenizer.json" else text)
        if match:
            problems.append(f"{name} holds a local path ({match[0].decode(errors='replace')}...)")
    return check_of("no local paths", problems, "none", "correct the file: it tells where and by whom it was made")


def check_calibration_text(artifact: Artifact) -> Check:
    """Check that no config holds the text that the model was calibrated on; its name may stand there."""
    problems = []
    for name, key, value in _config_entries(artifact):
        last = key.rpartition(".")[2]
        if last in ("dataset", "calibration", "calibration_dataset") and not isinstance(value, str | None):
            problems.append(f"{name} holds {key}, {len(value) if hasattr(value, '__len__') else 1} entries")
        elif isinstance(value, str) and len(value) > _LONGEST_TEXT and last not in _LONG_KEYS:
            problems.append(f"{name} holds a text of {len(value)} characters, {key}")
    return check_of("no calibration text", problems, "none", "remove it: it may be private, and no reader needs it")


def _starts_as_pickle(file: Path) -> bool:
    """Check whether a file begins as pickles do."""
    with file.open("rb") as stream:
        start = stream.read(64)
    # Protocols 2 to 5; and torch.save, a zip archive whose first member is NAME/data.pkl.
    return (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05") or (start[:2] == b"PK" and b"data.pkl" in start)


def _texts(artifact: Artifact) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of every file; of a weight file, only its header."""
    for name in artifact.names:
        with (artifact.path / name).open("rb") as stream:
            # Python allocates at once as much memory as it is asked to read.
            most = min(os.fstat(stream.fileno()).st_size, _READ_AT_MOST)
            if name.lower().endswith(_WEIGHTS):
                length = int.from_bytes(stream.read(8), "little")
                yield name, stream.read(min(length, most))
            else:
                yield name, stream.read(most)


def _without_vocabulary(text: bytes) -> bytes:
    """Return the text of a `tokenizer.json` without its words.

    The JSON is not decoded: anybody may have written it, and its values would take many times its size.
    """
    parts = []
    depth = start = 0
    key = b""
    for token in _TOKENS.finditer(text):
        sign = token[0]
        if sign in b"]}":
            depth -= 1
            if depth == 1 and key in _WORDS:
                # What comes next is kept; what came before the list is in `parts`.
                start = token.end()
        elif sign in b"[{":
            depth += 1
            if depth == 2 and key in _WORDS:
                parts.append(text[start : token.start()])
                start = len(text)
        elif depth == 1:
            key = sign
    # Of a file that is no JSON, nothing is left out.
    return b"".join([*parts, text[start:]]) if depth == 0 else text


# Texts and brackets, which tell where in a JSON file one is. The pattern does not backtrack into a text.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
_WORDS = (b'"model"', b'"added_tokens"')


def _asks_for_code(key: str, value: Any) -> bool:
    """Check whether transformers would take a program from a repository for an entry of a config."""
    if key.rpartition(".")[2] in _CODE_KEYS:
        return bool(value)
    # In the config of a part, or in a dict of parts: "_attn_implementation.text_config".
    names_kernel = any(part.endswith(_KERNEL_KEYS) for part in key.split("."))
    return names_kernel and isinstance(value, str) and "/" in value


def _config_entries(artifact: Artifact) -> Iterator[tuple[str, str, Any]]:
    """Yield every entry of every config in a folder, at any depth: the file, the key in it, and the value."""
    for name in artifact.names:
        if name.lower().endswith(_CONFIGS):
            for key, value in _entries("", read_json(artifact.path / name)):
                yield name, key, value


def _entries(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a JSON value holds, at any depth: of dicts every entry, of lists the texts with the key of the list.

    A key is "quantization_config.dataset", of which the last hundred letters are kept. `read_json` refuses values that
    are nested too deep for a recursion.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            inner_key = (f"{key}.{name}" if key else name)[-100:]
            yield inner_key, inner
            yield from _entries(inner_key, inner)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, str):
                yield key, inner
            yield from _entries(key, inner)
