"""Whatever the user calls a model, found, pinned, checked, and opened as a `Checkpoint`."""

import copy
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.adapters import adapters_below, refuse_adapted
from qtoolkit.checkpoints.config_limits import check_against_weights, check_numbers, without_code
from qtoolkit.checkpoints.panics import panics_as_errors, refuse_large_files, refuse_panics
from qtoolkit.checkpoints.remedy import lfs_problem, refuse_pointers
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import (
    CheckpointError,
    ConfigError,
    HubUnreachableError,
    ModelNotFoundError,
    SourceError,
    UnsafeCheckpointError,
    UnsupportedModelError,
    oneline,
)
from qtoolkit.files import file_bytes, path_of
from qtoolkit.hub.cache import cached_commit, snapshot_folder
from qtoolkit.hub.headers import fetch_headers
from qtoolkit.hub.hub_errors import HubModel
from qtoolkit.hub.licenses import ancestry, inherited, license_of_folder, read_card
from qtoolkit.hub.repository import Snapshot, fetch, from_cache, parse_name
from qtoolkit.measure.malloc import give_memory_back, require_room
from qtoolkit.models.building import build_empty, cause_of
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.foreign_codes import refuse_packed
from qtoolkit.models.gguf_config import expand_gguf, load_gguf_config
from qtoolkit.models.vocabulary import beyond_embeddings
from qtoolkit.noted import Noted
from qtoolkit.optional import optional
from qtoolkit.partial import put_back
from qtoolkit.records import OnProgress

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# What reading a tokenizer takes at its fullest moment, in bytes for each of its file: 14.5, as plans say.
_TOKENIZER_READ = 15
# What transformers makes a tokenizer of.
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt", "tekken.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template*", "*.model"),
    "additional_chat_templates/*.jinja",
)
# What a model can be loaded in.
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def open_checkpoint(
    model: Any,
    *,
    revision: str | None,
    token: str | None,
    tokenizer: Any,
    on_progress: OnProgress,
    quantized: bool = False,
    headers_only: bool = False,
    side_files: Collection[str] = (),
) -> Checkpoint:
    """Find a model, check it, and open it for reading; no weight is read, but a Hub model is downloaded.

    Args:
        model: a Hub id (`name` or `name@revision`), a folder, a `.gguf` file, or a loaded `PreTrainedModel`.
        revision: branch, tag or commit of a Hub id.
        token: Hub token; None for the one that huggingface_hub finds.
        tokenizer: the tokenizer, where it is not found beside the model.
        on_progress: told of the download.
        quantized: whether a checkpoint that is quantized already is welcome.
        headers_only: for a plan: nothing but headers is downloaded or read, of weights and of the tokenizer. Weights of
            a Hub model cannot be read then.
        side_files: files that formats look for beside the config, by name, so that they are downloaded too.

    Raises:
        SourceError: it is not there, is damaged, would run foreign code, or cannot be quantized.
        ConfigError: a revision of something that is not on the Hub.
        MissingDependencyError: a `.gguf` file without the package that reads it.
    """
    from transformers import PreTrainedConfig

    if headers_only and isinstance(model, PreTrainedConfig):
        return _from_config(model)
    if not isinstance(model, str | os.PathLike):
        _refuse_revision(type(model).__name__, revision)
        return _from_loaded(model, tokenizer)
    check = folders.check_loadable if quantized else folders.check_config
    name = os.fspath(model)
    if not isinstance(name, str) or name.startswith("~"):
        # Of others, those with a NUL may be asked for at the Hub, which says what they are.
        path_of(name, "model")
    # os.path, since Path raises on a name that is too long or belongs to nobody.
    path = Path(os.path.expanduser(name))  # noqa: PTH111
    put_back(path)
    if name and os.path.isfile(path) and path.suffix.lower() == ".gguf":  # noqa: PTH113
        _refuse_revision(name, revision)
        return _from_gguf(path, tokenizer, headers_only=headers_only)
    if name and os.path.isdir(path):  # noqa: PTH112
        _refuse_revision(name, revision)
        return _from_folder(name, path, tokenizer, check, headers_only=headers_only)
    exists = bool(name) and os.path.exists(path)  # noqa: PTH110
    if not name or exists or isinstance(model, os.PathLike) or path.is_absolute() or name.startswith((".", "~")):
        kind = "is no folder and no .gguf file" if exists else "does not exist"
        raise ModelNotFoundError(f"{name!r} {kind}: name a folder, a .gguf file, or a Hub id such as org/name")
    if headers_only:
        return _from_headers(name, revision, token, tokenizer, check)
    snapshot = fetch(name, revision=revision, token=token, on_progress=on_progress, check=check, side_files=side_files)
    return _from_snapshot(snapshot, tokenizer, check)


def _from_snapshot(snapshot: Snapshot, tokenizer: Any, check: Callable[[Path], None]) -> Checkpoint:
    """A model that was downloaded from the Hub, with what the Hub says of it."""
    checkpoint = _from_folder(snapshot.repo_id, snapshot.folder, tokenizer, check)
    described = replace(
        checkpoint,
        commit_hash=snapshot.commit_hash,
        checked=snapshot.checked,
        license=snapshot.license,
        gated=snapshot.gated,
        inherited=snapshot.inherited,
    )
    return described.with_notes(snapshot.note) if snapshot.note else described


def _refuse_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ConfigError(f"revision={revision!r} is for a model on the Hub, and {name} is not: leave it out")


def _from_config(config: "PreTrainedConfig") -> Checkpoint:
    """A model that is planned from its config alone: weights as its class has them, in the type that it names."""
    kind = type(config).__name__
    if config.is_encoder_decoder or getattr(config, "quantization_config", None):
        raise UnsupportedModelError(f"this {kind} is of no causal language model in full precision: give one that is")
    dtype = torch.float16 if config.dtype is None else _dtype(f"this {kind}", config, {})
    # A copy, since a kernel of the Hub that it names is left out, and a type that is text is read.
    config = copy.deepcopy(config)
    if config.dtype is not None:
        config.dtype = dtype
    checkpoint = Checkpoint(name=kind, config=config, tensors={}, dtype=dtype, format="config")
    try:
        check_numbers(f"this {kind}", config.to_dict())
        config._attn_implementation = config._experts_implementation = None  # noqa: SLF001  # as `attn_implementation=`
        model = build_empty(checkpoint, dtype)
    except CheckpointError:
        raise
    except Exception as error:  # a config that lies makes transformers raise anything
        raise UnsupportedModelError(f"no causal language model is made from this {kind} ({cause_of(error)})") from error
    count = sum(parameter.numel() for parameter in model.parameters())
    tied = model.all_tied_weights_keys
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    return replace(
        checkpoint,
        name=config.name_or_path or f"{kind} of {count / 1e9:.2f} billion parameters",
        tensors=tensors,
        disk_size=sum(tensor.nbytes for tensor in tensors.values()),
        notes=(f"planned from a {kind} alone, in {str(dtype).removeprefix('torch.')}, without weights",),
        _built=[Noted(model.eval())],
    )


def _from_headers(
    name: str, revision: str | None, token: str | None, tokenizer: Any, check: Callable[[Path], None]
) -> Checkpoint:
    """A Hub model as its headers: those of the local cache, where it is whole there and the Hub does not answer."""
    try:
        with fetch_headers(name, revision=revision, token=token, check=check) as found:
            checkpoint = _from_folder(found.repo_id, found.folder, tokenizer, check, headers_only=True)
            # Its skeleton is built while the files are there.
            checkpoint = checkpoint.with_notes(*checkpoint.skeleton_notes)
    except HubUnreachableError as error:
        snapshot = from_cache(HubModel(*parse_name(name, revision), token), error, check, headers_only=True)
        checkpoint = _from_folder(snapshot.repo_id, snapshot.folder, tokenizer, check, headers_only=True)
        return replace(checkpoint, commit_hash=snapshot.commit_hash).with_notes(snapshot.note)
    return replace(
        checkpoint,
        path=None,
        commit_hash=found.commit_hash,
        download_bytes=found.download_bytes,
        tokenizer_bytes=found.tokenizer_bytes,
    )


def _from_folder(
    name: str, folder: Path, tokenizer: Any, check: Callable[[Path], None], *, headers_only: bool = False
) -> Checkpoint:
    check(folder)
    tensors = folders.read_weights(folder)
    values = folders.read_config(folder)
    check_against_weights(name, values, tensors)
    config = folders.load_config(folder)
    below = adapters_below(folder)
    if tokenizer is None:
        refuse_pointers(folder, _TOKENIZER_FILES)
    checkpoint = Checkpoint(
        name=name,
        config=config,
        tensors=tensors,
        dtype=_dtype(name, config, tensors),
        format="safetensors",
        path=folder,
        disk_size=sum(file.stat().st_size for file in folders.weight_files(folder)),
        tokenizer=tokenizer if tokenizer is not None or headers_only else load_tokenizer(folder),
        generation_config=folders.load_generation_config(folder),
        tokenizer_bytes=file_bytes(folder / "tokenizer.json"),
        license=license_of_folder(folder),
        inherited=inherited(read_card(folder)) | ancestry(read_card(folder)),
        checked="not checked: a folder, of which no hashes are known",
    )
    left_out = [f"left out of its config, since it fetches or runs code: {what}" for what in without_code(values)[1]]
    adapters = [f"left out, since transformers does not apply it: the adapter in the folder {at!r:.80}" for at in below]
    return checkpoint.with_notes(*left_out, *adapters, *_choices(checkpoint, tokenizer_known=not headers_only))


def _from_gguf(file: Path, tokenizer: Any, *, headers_only: bool = False) -> Checkpoint:
    """A `.gguf` file: its config and tokenizer now, its weights when they are wanted."""
    optional("gguf", f"reading {file}")
    if problem := lfs_problem(file):
        raise SourceError(problem)
    config = load_gguf_config(file)
    return Checkpoint(
        name=str(file),
        config=config,
        tensors={},
        dtype=torch.bfloat16,
        format="gguf",
        path=file,
        disk_size=file.stat().st_size,
        tokenizer=tokenizer
        if tokenizer is not None or headers_only
        else load_tokenizer(file.parent, gguf_file=file.name),
        checked="not checked: a file, of which no hash is known",
        notes=("the .gguf file was expanded to bfloat16 by transformers before it was quantized",),
        expand=partial(expand_gguf, file, config),
    )


def _from_loaded(model: Any, tokenizer: Any) -> Checkpoint:
    """A model in memory; it is read and left as it is."""
    from transformers import PreTrainedModel

    name = type(model).__name__
    refuse_adapted(model)
    if isinstance(model, torch.nn.Module) and not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(f"a loaded model must be a PreTrainedModel of transformers, got the module {name}")
    if not isinstance(model, PreTrainedModel):
        raise ModelNotFoundError(f"a model is a Hub id, a folder, a .gguf file or a PreTrainedModel, got {name}")
    if getattr(model, "quantization_method", None) or getattr(model.config, "quantization_config", None):
        raise UnsupportedModelError(f"this {name} is quantized already: give the full-precision model")
    if not model.can_generate() or model.config.is_encoder_decoder:
        raise UnsupportedModelError(f"{name} is no causal language model: give one that AutoModelForCausalLM loads")
    tensors = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    refuse_packed(name, tensors)
    if any(tensor.is_meta for tensor in tensors.values()):
        raise UnsupportedModelError(f"some weights of this {name} are offloaded: name its folder or Hub id instead")
    checkpoint = Checkpoint(
        name=model.name_or_path or name,
        config=model.config,
        tensors=tensors,
        dtype=model.dtype,
        format="loaded",
        tokenizer=tokenizer if tokenizer is not None else find_tokenizer(model.name_or_path),
        generation_config=copy.deepcopy(model.generation_config),
        model_class=type(model),
        checked="not checked: a model in memory",
    )
    return checkpoint.with_notes(*_choices(checkpoint))


def find_tokenizer(name: str) -> Any:
    """The tokenizer of a loaded model, where it came from: its folder, or its commit in the local Hub cache."""
    if not name:
        return None
    if os.path.isdir(name):  # noqa: PTH112
        return load_tokenizer(Path(name))
    commit_hash = cached_commit(name, None)
    folder = snapshot_folder(name, commit_hash) if commit_hash else None
    return load_tokenizer(folder) if folder is not None and folder.is_dir() else None


def load_tokenizer(folder: Path, **options: Any) -> Any:
    """The tokenizer in a folder; None when there is none.

    Raises:
        SourceError: there is one, and it cannot be read.
    """
    from transformers import AutoTokenizer

    names = ("tokenizer.json", "tokenizer_config.json", "*.model", "vocab.json", "vocab.txt", "tekken.json")
    files = [file for name in names for file in folder.glob(name)]
    if "gguf_file" not in options and not files:
        return None
    refuse_large_files(file for name in _TOKENIZER_FILES for file in folder.glob(name))
    require_room(_TOKENIZER_READ * file_bytes(folder / "tokenizer.json"))
    try:
        with panics_as_errors():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
        refuse_panics(tokenizer)
        return tokenizer  # noqa: TRY300  # all of this is foreign code
    except Exception as error:  # the tokenizers library raises bare Exceptions
        way = "give one as tokenizer="
        if "trust_remote_code" in str(error):
            what = f"the tokenizer in {folder} needs code from its repository, which qtoolkit never runs"
            raise UnsafeCheckpointError(f"{what}: {way}") from error
        pointer = next(filter(None, (lfs_problem(file) for name in names for file in sorted(folder.glob(name)))), "")
        raise SourceError(pointer or f"the tokenizer in {folder} cannot be read ({oneline(error)}): {way}") from error
    finally:
        # Reading a large vocabulary takes twice what it holds then.
        give_memory_back()


def _dtype(name: str, config: "PreTrainedConfig", tensors: Mapping[str, StoredTensor]) -> torch.dtype:
    """The type that the config names, otherwise the one that most weights are stored in.

    Raises:
        CheckpointError: no model computes in the type that the config names.
    """
    if config.dtype is None:
        return _stored_dtype(tensors)
    names = {dtype: str(dtype).removeprefix("torch.") for dtype in FLOATS}
    dtype = next((dtype for dtype, text in names.items() if config.dtype in (text, dtype)), None)
    if dtype is None:
        what = f"the config of {name} wants {config.dtype!r:.40} as dtype"
        raise CheckpointError(f"{what}: it must be one of {', '.join(names.values())}")
    return dtype


def _stored_dtype(tensors: Mapping[str, StoredTensor | torch.Tensor]) -> torch.dtype:
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.dtype in FLOATS:
            sizes[tensor.dtype] += tensor.nbytes
    return sizes.most_common(1)[0][0] if sizes else torch.float32


def _choices(checkpoint: Checkpoint, *, tokenizer_known: bool = True) -> Iterator[str]:
    """Yield a note for each thing that was decided, or is missing, in a checkpoint that was opened."""
    stored = _stored_dtype(checkpoint.tensors)
    if stored != checkpoint.dtype and checkpoint.quantization is None:
        yield f"loaded in {checkpoint.dtype} as the config says, and stored in {stored}"
    if tokenizer_known and checkpoint.tokenizer is None:
        yield "no tokenizer was found beside the model: give one as tokenizer= to generate text"
    yield from beyond_embeddings(checkpoint)
