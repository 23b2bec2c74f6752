"""Whether a model in memory is the one on the Hub that it says it came from: by its weights, not by its name."""

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
from qtoolkit.hub.cache import cached_commit, is_whole, snapshot_folder
from qtoolkit.models.building import build_empty
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.experts import merges_experts, replace_experts
from qtoolkit.models.renaming import names_in_model
from qtoolkit.records import OnProgress, ProgressEvent

# What loading a model writes into its config.
_WRITTEN = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def identify(checkpoint: Checkpoint, on_progress: OnProgress) -> Checkpoint:
    """Compare a model in memory with the one of its name in the local Hub cache, number by number; asks no network.

    Args:
        checkpoint: the model.
        on_progress: told of each tensor that was compared; stops by raising.

    Returns:
        The checkpoint with its `commit_hash` where they are the same, otherwise with a note of what is not known. As it
        is: any other checkpoint, and a model whose name is none on the Hub.
    """
    name = checkpoint.name
    if checkpoint.format != "loaded" or not is_hub_id(name) or os.path.isdir(name):  # noqa: PTH112
        return checkpoint
    # What transformers notes of a model that it took from the Hub.
    noted = getattr(checkpoint.config, "_commit_hash", None)
    commit_hash = noted if is_commit_hash(noted) else cached_commit(name, None)
    folder = snapshot_folder(name, commit_hash) if commit_hash else None
    claim = f"so the result is not said to be a copy of {name}"
    if folder is None or not is_whole(folder):
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
    """The first option or tensor that is another than in a folder; empty where all are the same."""
    ours, theirs = (_options(config.to_dict()) for config in (checkpoint.config, load_config(folder)))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            return f"{key} in the config"
    held, stored = _by_name(checkpoint, None), _by_name(checkpoint, read_weights(folder))
    total, done = sum(tensor.nbytes for tensor in held.values()), 0
    for name, tensor in held.items():
        other = stored.get(name)
        # Read in the type that it was loaded in.
        same = other is not None and torch.equal(other[...].to(tensor.dtype), tensor[...].cpu())
        if not same:
            return name
        done += tensor.nbytes
        on_progress(ProgressEvent("load", done, total, "bytes", f"{name} compared with {checkpoint.name}"))
    return ""


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config as a dict without what loading writes into it, at any depth."""
    return {
        key: _options(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in _WRITTEN
    }


def _by_name(
    checkpoint: Checkpoint, tensors: Mapping[str, StoredTensor] | None
) -> dict[str, StoredTensor | torch.Tensor]:
    """Tensors of a file, or the checkpoint's own, by the names of the model with its experts taken apart."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    model = build_empty(checkpoint, checkpoint.dtype)
    named = checkpoint.named_as_stored(model) if tensors is None else tensors
    conversions = [rule for rule in get_model_conversion_mapping(model) if not merges_experts(rule)]
    replace_experts(model)
    names = names_in_model(model, named, conversions)
    return {names[key]: tensor for key, tensor in named.items()}
