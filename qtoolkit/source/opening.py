"""Whatever the user calls a model, found, pinned, checked, and opened as a `Checkpoint`."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.errors import ModelNotFoundError, SourceError, UnsupportedModelError, oneline
from qtoolkit.records import ProgressEvent
from qtoolkit.source import folder as folders
from qtoolkit.source.checkpoint import Checkpoint
from qtoolkit.source.hub import fetch
from qtoolkit.source.weights import StoredTensor

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig

OnProgress = Callable[[ProgressEvent], None]


def open_checkpoint(
    model: Any,
    *,
    revision: str | None,
    token: str | None,
    tokenizer: Any,
    on_progress: OnProgress,
    quantized: bool = False,
) -> Checkpoint:
    """Find a model, check it, and open it for reading; no weight is read, but a Hub model is downloaded.

    Args:
        model: a Hub id (`name` or `name@revision`), a folder, a `.gguf` file, or a loaded `PreTrainedModel`.
        revision: branch, tag or commit of a Hub id.
        token: Hub token; None for the one that huggingface_hub finds.
        tokenizer: the tokenizer, where it is not found beside the model.
        on_progress: told of the download.
        quantized: whether a checkpoint that is quantized already is welcome.

    Raises:
        SourceError: it is not there, is damaged, would run foreign code, or cannot be quantized.
    """
    if not isinstance(model, str | os.PathLike):
        return _from_loaded(model, tokenizer)
    check = folders.check_loadable if quantized else folders.check_config
    path = Path(model).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return _from_gguf(path, tokenizer)
    if path.is_dir():
        return _from_folder(str(model), path, tokenizer, check)
    if isinstance(model, os.PathLike) or path.exists() or path.is_absolute() or str(model).startswith((".", "~")):
        kind = "is no folder and no .gguf file" if path.exists() else "does not exist"
        raise ModelNotFoundError(f"{model} {kind}: name a folder, a .gguf file, or a Hub id such as org/name")
    snapshot = fetch(model, revision=revision, token=token, on_progress=on_progress, check=check)
    checkpoint = _from_folder(snapshot.repo_id, snapshot.folder, tokenizer, check)
    checkpoint.commit_hash = snapshot.commit_hash
    if snapshot.note:
        checkpoint.notes.append(snapshot.note)
    return checkpoint


def _from_folder(name: str, folder: Path, tokenizer: Any, check: Callable[[Path], None]) -> Checkpoint:
    check(folder)
    tensors = folders.read_weights(folder)
    config = folders.load_config(folder)
    return Checkpoint(
        name=name,
        config=config,
        tensors=tensors,
        dtype=_dtype(config, tensors),
        format="safetensors",
        path=folder,
        disk_size=sum(file.stat().st_size for file in folders.weight_files(folder)),
        tokenizer=tokenizer or load_tokenizer(folder),
        generation_config=_load_generation_config(folder),
    )


def _from_gguf(file: Path, tokenizer: Any) -> Checkpoint:
    """A `.gguf` file, expanded by transformers to bfloat16; whole in memory, since that reader has no other way."""
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"gguf_file": file.name, "dtype": torch.bfloat16}
    try:
        from transformers import GgufConfig
    except ImportError:
        # Versions without it always expand.
        expand = {}
    else:
        expand = {"quantization_config": GgufConfig(dequantize=True)}
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, **options, **expand)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise SourceError(f"transformers cannot read {file}: {oneline(error)}") from error
    checkpoint = _from_loaded(model, tokenizer or load_tokenizer(file.parent, gguf_file=file.name))
    checkpoint.name, checkpoint.path, checkpoint.format = str(file), file, "gguf"
    checkpoint.disk_size = file.stat().st_size
    checkpoint.notes.append("the .gguf file was expanded to bfloat16 by transformers before it was quantized")
    return checkpoint


def _from_loaded(model: Any, tokenizer: Any) -> Checkpoint:
    """A model in memory; it is read and left as it is."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ModelNotFoundError(
            f"a model is a Hub id, a folder, a .gguf file, or a loaded PreTrainedModel; got {type(model).__name__}"
        )
    if getattr(model, "quantization_method", None) or getattr(model.config, "quantization_config", None):
        raise UnsupportedModelError(f"this {type(model).__name__} is quantized already: give the full-precision model")
    if not model.can_generate():
        raise UnsupportedModelError(f"{type(model).__name__} is no causal language model: it has no head that writes text")
    config = model.config
    found = tokenizer
    if found is None and Path(model.name_or_path or "").is_dir():
        found = load_tokenizer(Path(model.name_or_path))
    return Checkpoint(
        name=model.name_or_path or type(model).__name__,
        config=config,
        tensors={name: tensor.detach() for name, tensor in model.state_dict().items()},
        dtype=model.dtype,
        format="loaded",
        tokenizer=found,
        generation_config=model.generation_config,
    )


def load_tokenizer(folder: Path, **options: Any) -> Any:
    """The tokenizer in a folder; None when there is none.

    Raises:
        SourceError: there is one, and it cannot be read.
    """
    from transformers import AutoTokenizer

    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")
    if "gguf_file" not in options and not any((folder / name).exists() for name in names):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise SourceError(f"the tokenizer in {folder} cannot be read: {oneline(error)}") from error


def _load_generation_config(folder: Path) -> "GenerationConfig | None":
    from transformers import GenerationConfig

    return GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").exists() else None


def _dtype(config: "PreTrainedConfig", tensors: dict[str, StoredTensor]) -> torch.dtype:
    """The type that the config names, otherwise the one that most weights are stored in."""
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.dtype.is_floating_point:
            sizes[tensor.dtype] += tensor.nbytes
    return sizes.most_common(1)[0][0] if sizes else torch.float32
