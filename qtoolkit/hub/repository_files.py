"""Choose the files of a repository to download: config, tokenizer, safetensors weights; nothing that runs code."""

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from qtoolkit.checkpoints.filenames import (
    INDEX_FILE,
    OTHER_WEIGHTS,
    PICKLE_SUFFIXES,
    QUANTIZE_CONFIG,
    RECEIPT_FILE,
    SINGLE_FILE,
    is_companion,
)
from qtoolkit.checkpoints.folder import MAX_CONFIG_BYTES, named_file
from qtoolkit.errors import CheckpointError, UnsafeCheckpointError, UnsupportedModelError
from qtoolkit.files import read_json
from qtoolkit.hub.gguf_choice import gguf_models, listed

# What says how a model is built and which files hold its weights; a plan reads these alone.
CONFIG_FILES = ("config.json", "generation_config.json", QUANTIZE_CONFIG, INDEX_FILE)
_SMALL = (
    *CONFIG_FILES,
    RECEIPT_FILE,
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
    """Return the config, index and tokenizer files at the top level and what holds for copies, `config.json` first.

    Args:
        names: of a repository's files.
        others: files that formats look for beside the config, by name.
    """
    small = [name for name in names if "/" not in name and (is_companion(name) or _matches(name, (*_SMALL, *others)))]
    return tuple(sorted(small, key=lambda name: (name != "config.json", name)))


def weight_files(names: Collection[str]) -> tuple[str, ...]:
    """Return the safetensors weights among `names`, sorted; with an index, all files that it may name."""
    if SINGLE_FILE in names and INDEX_FILE not in names:
        return (SINGLE_FILE,)
    weights = (name for name in names if name.endswith(".safetensors") and "/" not in name)
    return tuple(sorted(name for name in weights if not _matches(name, OTHER_WEIGHTS)))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def choose_weights(folder: Path, names: Collection[str]) -> tuple[str, ...]:
    """Return the weight files of a model: the one that a GPTQ config names, those of its index, or else all.

    Args:
        folder: holds the configs and the index.
        names: files of the repository; an index may name others.

    Raises:
        CheckpointError: the index is damaged.
    """
    named = named_file(folder, names)
    if named is not None:
        return (named,)
    return indexed_files(folder / INDEX_FILE) if INDEX_FILE in names else weight_files(names)


def indexed_files(index: Path) -> tuple[str, ...]:
    """Return the sorted names of the weight files that a `model.safetensors.index.json` lists.

    Raises:
        CheckpointError: the index is damaged, or names something else than safetensors files in its own folder.
    """
    weight_map = read_json(index, max_bytes=MAX_CONFIG_BYTES).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index.name} has no weight_map of file names")
    names = list(weight_map.values())
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index.name} names {name!r} as a weight file: it must be a .safetensors file beside it"
            )
    if not names:
        raise CheckpointError(f"{index.name} names no weight file")
    return tuple(sorted(set(names)))


def refuse_without_safetensors(repo_id: str, names: Mapping[str, int]) -> None:
    """Refuse a repository by its file names alone.

    Args:
        repo_id: what it is called in the error.
        names: of its files, with their bytes.

    Raises:
        UnsupportedModelError: it holds `.gguf` files or an adapter instead of a model.
        UnsafeCheckpointError: its weights are pickles only, and unpickling runs code.
        CheckpointError: it holds no weights, or no `config.json`.
    """
    if weight_files(names):
        if "config.json" not in names:
            raise CheckpointError(f"{repo_id} has no config.json at its top level, so nothing tells what model this is")
        return
    ggufs = gguf_models(names)
    if ggufs:
        raise UnsupportedModelError(
            f"{repo_id} holds {len(ggufs)} .gguf model{'s' * (len(ggufs) > 1)}: name one of {listed(repo_id, ggufs)}"
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
