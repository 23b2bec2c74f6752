"""Open a model, by any of the names that a user may give it, as a `Checkpoint`."""

import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.folder import Refuse, accept_all, check_config, check_loadable
from qtoolkit.checkpoints.gguf_header import misnamed_problem
from qtoolkit.checkpoints.hub_names import without_address
from qtoolkit.errors import ConfigError, HubUnreachableError, ModelNotFoundError, SourceError, UnsupportedModelError
from qtoolkit.files import path_of
from qtoolkit.hub.gguf_choice import parse_gguf_name
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.from_config import open_config
from qtoolkit.models.from_folder import open_folder
from qtoolkit.models.from_gguf import open_gguf
from qtoolkit.models.from_gguf_folder import lone_gguf, named_gguf, open_gguf_folder
from qtoolkit.models.from_hub import open_downloaded, open_headers, open_hub_gguf
from qtoolkit.models.from_memory import open_loaded
from qtoolkit.models.near_models import missing_folder
from qtoolkit.models.rescaling import without_rescaling
from qtoolkit.partial import put_back
from qtoolkit.records import OnProgress, ignore_progress


def open_checkpoint(
    model: Any,
    *,
    revision: str | None,
    token: str | None,
    tokenizer: Any,
    on_progress: OnProgress,
    quantized: bool = False,
    refuse: Refuse = accept_all,
    headers_only: bool = False,
    side_files: Collection[str] = (),
) -> Checkpoint:
    """Find a model, check it, and open it for reading; no weight is read, but a Hub model is downloaded.

    Args:
        model: a Hub id (`name` or `name@revision`, `name:Q4_K_M` or `name/file.gguf`) or the address of its page, a
            folder, a `.gguf` file, or a loaded `PreTrainedModel`.
        revision: branch, tag or commit of a Hub id.
        token: Hub token; None for the one that huggingface_hub finds.
        tokenizer: one to use instead of the model's own; None for that.
        on_progress: called as files are downloaded.
        quantized: whether a checkpoint may be quantized already.
        refuse: raises for the `quantization_config` of one that cannot be read, before weights are downloaded.
        headers_only: for a plan: only headers are downloaded or read, of weights and of the tokenizer. Weights of a Hub
            model cannot be read then. The model may be a transformers config.
        side_files: names of files beside the config that formats read, to be downloaded too.

    Raises:
        SourceError: it does not exist, is damaged, would run foreign code, or cannot be quantized.
        ConfigError: a revision of something that is not on the Hub.
        MissingDependencyError: a `.gguf` file without the package that reads it.
    """
    opened = _opened(
        model,
        revision=revision,
        token=token,
        tokenizer=tokenizer,
        on_progress=on_progress,
        check=partial(check_loadable, refuse=refuse) if quantized else check_config,
        headers_only=headers_only,
        side_files=side_files,
    )
    return without_rescaling(opened)


def open_structure(folder: Path) -> Checkpoint:
    """Open a saved model by its headers, quantized or not, without a tokenizer; raises as `open_checkpoint`."""
    return open_checkpoint(
        str(folder),
        revision=None,
        token=None,
        tokenizer=None,
        on_progress=ignore_progress,
        quantized=True,
        headers_only=True,
    )


def _path_of_model(name: str) -> Path:
    """Return the path that a name is; of a folder with one `.gguf` model alone, that of the file."""
    # os.path, since Path raises on a name that is too long or belongs to nobody.
    path = Path(os.path.expanduser(name))  # noqa: PTH111
    put_back(path)
    return lone_gguf(path) or path if name and os.path.isdir(path) else path  # noqa: PTH112


def _opened(
    model: Any,
    *,
    revision: str | None,
    token: str | None,
    tokenizer: Any,
    on_progress: OnProgress,
    check: Callable[[Path], None],
    headers_only: bool,
    side_files: Collection[str],
) -> Checkpoint:
    """Open a model as `open_checkpoint` does; `check` refuses one by its folder."""
    from transformers import PreTrainedConfig

    if headers_only and isinstance(model, PreTrainedConfig):
        return open_config(model)
    if not isinstance(model, str | os.PathLike):
        _refuse_revision(type(model).__name__, revision)
        return open_loaded(model, tokenizer)
    name = os.fspath(model)
    name = without_address(name) if isinstance(name, str) else name
    if not isinstance(name, str) or name.startswith("~"):
        # Other names with a NUL are refused where Hub ids are read.
        path_of(name, "model")
    path = _path_of_model(name)
    if name and os.path.isfile(path) and path.suffix.lower() == ".gguf":  # noqa: PTH113
        _refuse_revision(name, revision)
        return open_gguf(path, tokenizer, headers_only=headers_only)
    if name and os.path.isdir(path):  # noqa: PTH112
        _refuse_revision(name, revision)
        file = named_gguf(path)
        opens = open_folder if file is None else partial(open_gguf_folder, file=file)
        return opens(name, path, tokenizer=tokenizer, check=check, headers_only=headers_only)
    exists = bool(name) and os.path.exists(path)  # noqa: PTH110
    if not name or exists or isinstance(model, os.PathLike) or path.is_absolute() or name.startswith((".", "~")):
        raise _no_model(name, path if exists else None)
    choice = parse_gguf_name(name)
    if choice is not None:
        return open_hub_gguf(
            choice, tokenizer, revision=revision, token=token, on_progress=on_progress, headers_only=headers_only
        )
    open_model = (
        open_headers if headers_only else partial(open_downloaded, on_progress=on_progress, side_files=side_files)
    )
    try:
        return open_model(name, tokenizer, check, revision=revision, token=token)
    except (ModelNotFoundError, HubUnreachableError) as error:
        missing = missing_folder(name)
        if not missing:
            raise
        raise type(error)(f"{missing}; and {error}") from None


def _no_model(name: str | bytes, path: Path | None) -> SourceError:
    """Return the error of a name that is none of a model; path is what is there, None for nothing."""
    if path is not None and path.is_file() and (problem := misnamed_problem(path)):
        return UnsupportedModelError(problem)
    kind = "does not exist" if path is None else "is no folder and no .gguf file"
    return ModelNotFoundError(f"{name!r} {kind}: name a folder, a .gguf file, or a Hub id such as org/name")


def _refuse_revision(name: str, revision: str | None) -> None:
    """Refuse a revision of something that is not on the Hub.

    Args:
        name: what the model is called in the error.
        revision: the revision; None where none was given.

    Raises:
        ConfigError: there is one.
    """
    if revision is not None:
        raise ConfigError(f"revision={revision!r} is for a model on the Hub, and {name} is not: leave it out")
