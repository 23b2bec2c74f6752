"""Which files of a repository are downloaded: config, tokenizer, safetensors weights; nothing that runs code."""

import json
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from qtoolkit.checkpoints.filenames import (
    INDEX_FILE,
    OTHER_WEIGHTS,
    PICKLE_SUFFIXES,
    QUANTIZE_CONFIG,
    RECEIPT_FILE,
    SINGLE_FILE,
)
from qtoolkit.errors import CheckpointError, UnsafeCheckpointError, UnsupportedModelError, oneline

_SMALL = (
    "config.json",
    "generation_config.json",
    QUANTIZE_CONFIG,
    RECEIPT_FILE,
    INDEX_FILE,
    "tokenizer*.json",
    "*.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)


def small_files(names: Collection[str], others: Collection[str] = ()) -> tuple[str, ...]:
    """Config, index and tokenizer files among `names`, `config.json` first; only those at the top level.

    Args:
        names: of a repository's files.
        others: files that formats look for beside the config, by name.
    """
    patterns = (*_SMALL, *others)
    found = [name for name in names if "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)]
    return tuple(sorted(found, key=lambda name: (name != "config.json", name)))


def weight_files(names: Collection[str]) -> tuple[str, ...]:
    """The safetensors weights among `names`; with an index, the files that it may name."""
    if SINGLE_FILE in names and INDEX_FILE not in names:
        return (SINGLE_FILE,)
    return tuple(
        sorted(
            name
            for name in names
            if "/" not in name
            and name.endswith(".safetensors")
            and not any(fnmatch(name, pattern) for pattern in OTHER_WEIGHTS)
        )
    )


def indexed_files(index: Path) -> tuple[str, ...]:
    """The files that a `model.safetensors.index.json` names, each once.

    Raises:
        CheckpointError: it is damaged, or names something else than safetensors files beside it.
    """
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index.name} has no weight_map of file names ({oneline(error)})") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index.name} names {name!r} as a weight file: it must be a .safetensors file beside it"
            )
    if not names:
        raise CheckpointError(f"{index.name} names no weight file")
    return tuple(names)


def refuse_without_safetensors(repo_id: str, names: Collection[str]) -> None:
    """Refuse a repository by its file names alone.

    Raises:
        UnsupportedModelError: it holds `.gguf` files or an adapter instead of a model.
        UnsafeCheckpointError: its weights are there as pickles only, and unpickling runs code.
        CheckpointError: it holds no weights, or no `config.json`.
    """
    if weight_files(names):
        if "config.json" not in names:
            raise CheckpointError(f"{repo_id} has no config.json at its top level, so nothing tells what model this is")
        return
    ggufs = sorted(name for name in names if name.endswith(".gguf"))
    if ggufs:
        raise UnsupportedModelError(
            f"{repo_id} holds .gguf files only: download one (`hf download {repo_id} {ggufs[0]}`) and name its path"
        )
    if any(fnmatch(name, "adapter_*") for name in names):
        raise UnsupportedModelError(f"{repo_id} is an adapter: merge it into its base model and name the merged folder")
    pickles = sorted(name for name in names if name.endswith(PICKLE_SUFFIXES))
    if pickles:
        raise UnsafeCheckpointError(
            f"{repo_id} has pickled weights only ({pickles[0]}), and unpickling runs code: "
            "look for a safetensors version of it, or ask its author for one"
        )
    raise CheckpointError(f"{repo_id} holds no *.safetensors weights at its top level")
