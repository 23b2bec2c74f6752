"""Check by its weights whether a model in memory is the one on the Hub whose name it has."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qtoolkit.checkpoints.folder import load_config, read_weights
from qtoolkit.checkpoints.hub_names import is_commit_hash, is_hub_id
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import SourceError, oneline
from qtoolkit.hub.cache import cached_commit, cached_weights, snapshot_folder
from qtoolkit.models.building import build_empty
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.experts import find_experts, merges_experts, replace_experts, tensors_apart
from qtoolkit.models.renaming import names_in_model
from qtoolkit.records import OnProgress, ProgressEvent

# Keys that loading a model writes into its config.
_LOADING_KEYS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def identify(checkpoint: Checkpoint, on_progress: OnProgress) -> Checkpoint:
    """Compare a model in memory with the one of its name in the local Hub cache, number by number, without network.

    Args:
        checkpoint: the model.
        on_progress: called after each tensor that was compared; may raise to stop.

    Returns:
        The checkpoint with its `commit_hash` where they are the same, otherwise with a note of what is not known.
        Unchanged: any other checkpoint, and a model whose name is not a Hub id.
    """
    name = checkpoint.name
    if checkpoint.format != "loaded" or not is_hub_id(name) or os.path.isdir(name):  # noqa: PTH112
        return checkpoint
    # transformers writes it into the config of a model that it loads from the Hub.
    loaded = getattr(checkpoint.config, "_commit_hash", None)
    commit_hash = loaded if is_commit_hash(loaded) else cached_commit(name, None)
    folder = snapshot_folder(name, commit_hash) if commit_hash else None
    claim = f"so the result is not said to be a copy of {name}"
    if folder is None or not cached_weights(folder):
        note = f"the model in memory was not compared with {name}, not whole in the local cache, {claim}"
        return checkpoint.with_notes(note)
    try:
        difference = _difference(checkpoint, folder, on_progress)
    except SourceError as error:
        note = f"the model in memory was not compared with {name} ({oneline(error)}), {claim}"
        return checkpoint.with_notes(note)
    if difference:
        where = f"{difference} of the model in memory is not that of {name} (commit {str(commit_hash)[:12]})"
        return checkpoint.with_notes(f"{where}, {claim}")
    return replace(checkpoint, commit_hash=commit_hash)


def _difference(checkpoint: Checkpoint, folder: Path, on_progress: OnProgress) -> str:
    """Return the first option or tensor that differs from a folder's; empty where all are the same."""
    ours = _options(checkpoint.config.to_dict())
    theirs = _options(load_config(folder).to_dict())
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            return f"{key} in the config"
    loaded = _by_name(checkpoint, None)
    stored = _by_name(checkpoint, read_weights(folder))
    total = sum(tensor.nbytes for tensor in loaded.values())
    done = 0
    for name, tensor in loaded.items():
        other = stored.get(name)
        # Compared in the type that the model was loaded in.
        if other is None or not torch.equal(other[...].to(tensor.dtype), tensor[...].cpu()):
            return name
        done += tensor.nbytes
        on_progress(ProgressEvent("load", done, total, "bytes", f"{name} compared with {checkpoint.name}"))
    return ""


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's values without those that loading writes, at any depth."""
    return {
        key: _options(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in _LOADING_KEYS
    }


def _by_name(
    checkpoint: Checkpoint, tensors: Mapping[str, StoredTensor] | None
) -> dict[str, StoredTensor | torch.Tensor]:
    """Return tensors of files, or for None the checkpoint's own, by their names in the model with experts apart."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    model = build_empty(checkpoint, checkpoint.dtype)
    named = checkpoint.named_as_stored(model) if tensors is None else tensors
    named = tensors_apart(model, named, find_experts(model))
    conversions = [rule for rule in get_model_conversion_mapping(model) if not merges_experts(rule)]
    replace_experts(model)
    names = names_in_model(model, named, conversions)
    return {names[key]: tensor for key, tensor in named.items()}
