"""Search models by a text: on this machine first, then on the Hub, which is asked once and need not answer."""

import json
import math
import os
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.adapters import refuse_adapter
from qtoolkit.checkpoints.filenames import PICKLE_SUFFIXES
from qtoolkit.checkpoints.model_class import architectures
from qtoolkit.checkpoints.safetensors import DTYPES
from qtoolkit.errors import ConfigError, QToolkitError, SourceError, oneline
from qtoolkit.files import read_json
from qtoolkit.hub.cache import complete_snapshot, local_models
from qtoolkit.hub.gguf_choice import gguf_models, named
from qtoolkit.hub.hub_errors import HubModel, HubSearch, refuse_token, translated
from qtoolkit.hub.licenses import license_of_folder, named_license
from qtoolkit.hub.repository import ask
from qtoolkit.hub.repository_files import weight_files
from qtoolkit.records import FoundModel, FoundModels

# Seconds until the Hub must begin its answer, and again until it must end it; it mostly takes less than one.
TIMEOUT = 8.0
# What the one answer holds of each model.
_FIELDS = ("cardData", "config", "downloads", "gated", "gguf", "safetensors", "siblings")
# The tasks of the Hub whose models answer text with text, alone or with images.
_TASKS = ("text-generation", "image-text-to-text")
# No name on the Hub is longer.
_MAX_TEXT = 200
# Pickles that trainers write beside the weights.
_NO_WEIGHTS = ("training_args*", "optimizer*", "scheduler*", "rng_state*")


def find_models(text: str, *, limit: int, hub: bool, token: str | None, timeout: float = TIMEOUT) -> FoundModels:
    """Find models that generate text; if the Hub does not answer, only those on this machine, with a note why.

    Args:
        text: a part of the name, in any case, or the path of a folder or `.gguf` file; empty for everything. For the
            whole name of a repository or folder of `.gguf` files alone, these files are found.
        limit: how many models of the Hub.
        hub: whether the Hub is asked; it is never asked for a path, which should not leave this machine.
        token: Hub token; None for the one that huggingface_hub finds.
        timeout: seconds until the Hub must begin its answer, and again until it must end it.

    Raises:
        ConfigError: `text` is no text or is a token, or `token` cannot be one.
    """
    if not isinstance(text, str):
        raise ConfigError(f"a search is for a text, got {type(text).__name__} {text!r:.60}")
    refuse_token(text)
    query = text.strip()
    notes: list[str] = []
    models = {model.name: model for model in _on_this_machine(query, notes)}
    try:
        hits = search_hub(query, limit, token, timeout) if hub and not _is_path(query) else []
    except QToolkitError as error:
        if token is not None and isinstance(error, ConfigError):
            raise
        notes.append(f"only this machine was searched, since {error}")
        hits = []
    if any(model.name == query and model.formats == ("gguf",) for model in hits):
        hits = _gguf_files(next(model for model in hits if model.name == query), token, notes)
    for model in hits:
        models[model.name] = _completed(models[model.name], model) if model.name in models else model
    return FoundModels(query, tuple(models.values()), tuple(notes))


def _gguf_files(model: FoundModel, token: str | None, notes: list[str]) -> list[FoundModel]:
    """Return the `.gguf` models of a repository that holds no others, as `qt.plan` and the other verbs name them.

    The Hub is asked once more, for their sizes; if it does not answer, the repository itself is returned, with a note.
    """
    try:
        files = ask(HubModel(model.name, None, token)).siblings or ()
    except SourceError as error:
        notes.append(f"the files of {model.name} are not listed, since {error}")
        return [model]
    models = named(model.name, gguf_models({file.rfilename: file.size or 0 for file in files}))
    found = [replace(model, name=name, size=size or None, num_parameters=None) for name, size in models.items()]
    return found or [model]


def _is_path(text: str) -> bool:
    """Check whether a text cannot be part of a Hub id: "/home/me", "~/models", "./out", "a/b/c"."""
    return text.startswith(("/", "~", ".")) or "\\" in text or text.count("/") > 1


def _completed(local: FoundModel, remote: FoundModel) -> FoundModel:
    """Add to a cached model what only the Hub knows; a folder of the same name is another model."""
    if local.place != "cache":
        return local
    names = ("num_parameters", "license", "gated", "downloads")
    return replace(local, **{name: getattr(remote, name) for name in names if getattr(local, name) is None})


def _on_this_machine(query: str, notes: list[str]) -> Iterator[FoundModel]:
    """Yield the folder or `.gguf` file of this path, and the cached models with this text in their name."""
    # os.path, since Path raises on a name that is too long or belongs to nobody.
    path = os.path.expanduser(query) if "\0" not in query else query  # noqa: PTH111
    if query and os.path.isfile(path) and path.lower().endswith(".gguf"):  # noqa: PTH113
        yield FoundModel(query, "folder", size=Path(path).stat().st_size, formats=("gguf",))
    if query and os.path.isdir(path):  # noqa: PTH112
        yield from _files_alone(query, Path(path)) or [_in_folder(query, "folder", Path(path), notes)]
    for name in local_models():
        snapshot = complete_snapshot(name) if query.lower() in name.lower() else None
        if snapshot:
            yield _in_folder(name, "cache", snapshot, notes)


def _files_alone(name: str, folder: Path) -> list[FoundModel]:
    """Return the `.gguf` models of a folder that holds no others, as the verbs name them; none if its config names one.

    Args:
        name: of the folder, as it was written.
        folder: where it is.
    """
    described = read_json(folder / "config.json").get("quantization_config")
    try:
        sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    except OSError:
        return []
    if folders.quant_method(described) == "gguf" or _formats(sizes) != ("gguf",):
        return []
    models = gguf_models(sizes)
    return [FoundModel(os.path.join(name, file), "folder", size=models[file], formats=("gguf",)) for file in models]  # noqa: PTH118


def _in_folder(name: str, place: str, folder: Path, notes: list[str]) -> FoundModel:
    """Describe a model by its config and the headers of its weights; add a note on what cannot be read."""
    model = FoundModel(name, place, license=license_of_folder(folder))
    try:
        model = replace(model, formats=_formats([file.name for file in folder.iterdir() if file.is_file()]))
        refuse_adapter(folder)
        config = folders.read_config(folder)
        quantized = folders.quant_method(folders.quantization(folder, config))
        model = replace(model, architecture=_architecture(config), quantized=quantized)
        tensors = folders.read_weights(folder).values()
        # The headers of packed weights do not say how many weights there are.
        count = None if quantized else sum(math.prod(tensor.shape) for tensor in tensors)
        size = sum(file.stat().st_size for file in {tensor.file for tensor in tensors})
        return replace(model, num_parameters=count, size=size)
    except (SourceError, OSError) as error:
        notes.append(f"{name}: {oneline(error)}")
        return model


def search_hub(query: str, limit: int, token: str | None, timeout: float = TIMEOUT) -> list[FoundModel]:
    """Ask the Hub, in one request for each task, none of which is repeated.

    `HfApi.list_models` has no timeout, repeats its request five times when the Hub is overloaded (huggingface_hub 2.4),
    and raises at the first model whose description it does not know.

    Args:
        query: as `text` of `find_models`.
        limit, token, timeout: as for `find_models`.

    Raises:
        ConfigError: `token` cannot be a token.
        SourceError: the Hub refuses, does not answer in time, or answers something else than a list of models.
    """
    params: dict[str, Any] = {"sort": "downloads", "limit": limit, "expand": list(_FIELDS)}
    if query:
        params["search"] = query
    search = HubSearch(token=token)
    with ThreadPoolExecutor(len(_TASKS)) as pool:
        answers = pool.map(lambda task: _ask(params | {"pipeline_tag": task}, search, timeout), _TASKS)
        models = [model for entries in answers for entry in entries[:limit] if (model := _described(entry))]
    return sorted(models, key=lambda model: -(model.downloads or 0))[:limit]


def _ask(params: Mapping[str, Any], search: HubSearch, timeout: float) -> list[Any]:
    """Return the models that the Hub lists; raises as `search_hub`."""
    with translated(search):
        entries = json.loads(_receive(f"{HfApi().endpoint}/api/models", params, search, timeout))
        if not isinstance(entries, list):
            raise TypeError(f"{type(entries).__name__} instead of a list of models")
    return entries


def _receive(url: str, params: Mapping[str, Any], search: HubSearch, timeout: float) -> bytes:
    """Return the body of an answer, and give up on one that is too slow or too long."""
    deadline = time.monotonic() + timeout
    headers = build_hf_headers(token=search.token)
    with get_session().stream("GET", url, params=params, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        body = bytearray()
        for piece in response.iter_bytes():
            body += piece
            if len(body) > folders.MAX_CONFIG_BYTES or time.monotonic() > deadline:
                raise TimeoutError(f"no end after {len(body)} bytes")
    return bytes(body)


def _described(entry: Any) -> FoundModel | None:
    """Describe a model by an entry of the Hub's answer, without fields of a wrong type; None without a name."""
    entry = _mapping(entry)
    name = _text(entry.get("id"))
    if name is None:
        return None
    config, gguf, stored = (_mapping(entry.get(key)) for key in ("config", "gguf", "safetensors"))
    siblings = entry.get("siblings")
    files = [_mapping(file).get("rfilename") for file in siblings] if isinstance(siblings, list) else []
    formats = _formats([file for file in files if isinstance(file, str)])
    quantized = _text(folders.quant_method(config.get("quantization_config")))
    gated = entry.get("gated")
    total = _count(stored.get("total"))
    return FoundModel(
        name,
        "hub",
        architecture=_text(_architecture(config) or gguf.get("architecture")),
        num_parameters=_count(gguf.get("total")) if total is None else total,
        size=None if quantized else _stored_bytes(_mapping(stored.get("parameters"))),
        license=_text(named_license(entry.get("cardData"))),
        # "auto" and "manual" say how access is granted.
        gated=bool(gated) if isinstance(gated, bool | str) else None,
        formats=formats or tuple(key for key, found in (("safetensors", stored), ("gguf", gguf)) if found),
        downloads=_count(entry.get("downloads")),
        quantized=quantized,
    )


def _stored_bytes(parameters: Mapping[str, Any]) -> int | None:
    """Compute the bytes of the weights from the count of each type; None if a type is not known.

    For a quantized model this would be too much: the Hub counts the weights before packing (huggingface.js,
    `parse-safetensors-metadata.ts`).

    Example: `{"BF16": 1000, "F32": 8}` -> 2032.
    """
    sizes = [
        count * DTYPES[dtype].itemsize
        for dtype, value in parameters.items()
        if (count := _count(value)) is not None and dtype in DTYPES
    ]
    return sum(sizes) if sizes and len(sizes) == len(parameters) else None


def _architecture(config: Mapping[str, Any]) -> str | None:
    return next(iter(architectures(config)), None)


def _formats(names: Collection[str]) -> tuple[str, ...]:
    """Return the formats of the weights among file names: "safetensors", "gguf", "pickle"."""
    pickles = [name for name in names if name.endswith(PICKLE_SUFFIXES) and "/" not in name]
    has = {
        "safetensors": bool(weight_files(names)),
        "gguf": any(name.lower().endswith(".gguf") for name in names),
        "pickle": any(not any(fnmatch(name, pattern) for pattern in _NO_WEIGHTS) for name in pickles),
    }
    return tuple(name for name, is_present in has.items() if is_present)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    """Return a text that can be shown in one line; None for anything else."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return None
    # JSON may hold half of a surrogate pair, which cannot be printed.
    return " ".join(value.encode(errors="replace").decode().split()) or None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
