"""Tell which programs load a saved model, by what its config and the headers of its tensors say."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from qtoolkit.checkpoints.layer_values import heads_of
from qtoolkit.checkpoints.model_class import architectures
from qtoolkit.errors import CheckpointError, QToolkitError
from qtoolkit.methods import config_class, config_of_checkpoint, stored_of
from qtoolkit.publishing.artifact import Artifact
from qtoolkit.readers import Stored, describe_stored, readers_of, reading_of, summary
from qtoolkit.records import NONE_RUN, Check, Receipt

NAME = "a program loads it"
# NVIDIA's Model Optimizer, by several names with one suffix or another.
_MODELOPT = "modelopt"


def stored_in(artifact: Artifact) -> Stored | None:
    """Return how a saved model is stored; None where its config cannot be read, or has values that none can have."""
    values = artifact.quantization
    dtype = str(artifact.config.get("dtype") or artifact.config.get("torch_dtype") or "")
    if values is None:
        return Stored(format="", dtype=dtype) if "quantization_config" not in artifact.config else None
    shapes = {name: tensor.shape for _, name, tensor in artifact.headers.tensors}
    in_bytes = _float8_layers(artifact)
    bits = (artifact.format.layer_bits(values, shapes) if artifact.format else {}) or dict.fromkeys(in_bytes, 8)
    left = [
        name.removesuffix(".weight") for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 2
    ]
    named = architectures(artifact.config)
    known: dict[str, Any] = {"dtype": dtype, "values": values, "architecture": next(iter(named), "")}
    known["heads"] = heads_of(artifact.config)
    known["shapes"] = (artifact.format.layer_shapes(values, shapes) if artifact.format else {}) or in_bytes
    try:
        stored = stored_of(config_of_checkpoint(values), bits, left, **known)
    except CheckpointError:
        return None
    except (QToolkitError, KeyError, TypeError):
        # Of other programs, or not read here: by the keys that most of them have.
        stored = describe_stored(_called(values), _told_by(values), bits, left, **known)
    return replace(stored, given_values=artifact.given_values)


def _float8_layers(artifact: Artifact) -> dict[str, tuple[int, ...]]:
    """Return [outputs, inputs] of the layers whose weights are floats of 8 bits under their own names."""
    weights = ((name, tensor) for _, name, tensor in artifact.headers.tensors if name.endswith(".weight"))
    return {
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in weights
        if tensor.dtype == torch.float8_e4m3fn and len(tensor.shape) == 2
    }


def _called(values: Mapping[str, Any]) -> str:
    """Return how the reader contract calls the format of another program, by a `quantization_config`."""
    kind = str(values.get("quant_method"))
    return _MODELOPT if kind.startswith(f"{_MODELOPT}_") else kind


def _told_by(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a `quantization_config` that is not read here says of codes, as options of a method."""
    groups = values.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    own = {**values, **weights} if isinstance(weights, dict) else values
    # option -> the keys that it has in one file or another
    keys = {
        "bits": ("bits", "w_bit", "num_bits"),
        "group_size": ("group_size", "q_group_size"),
        "granularity": ("strategy",),
        "sym": ("sym", "symmetric"),
        "desc_act": ("desc_act",),
    }
    told = {
        option: [own[key] for key in names if isinstance(own.get(key), int | str)] for option, names in keys.items()
    }
    options = {option: found[0] for option, found in told.items() if found}
    sizes = values.get("weight_block_size")
    return options | {"group_size": sizes[-1]} if isinstance(sizes, list) and sizes else options


def stored_by(receipt: Receipt) -> Stored | None:
    """Return how the model of a receipt is stored, as far as the receipt alone tells; None if its options are none."""
    try:
        config = config_class(receipt.method).from_file(receipt.settings)
    except QToolkitError:
        # A receipt is a file that anybody may have edited.
        return None
    return stored_of(config, dtype=receipt.source.dtype)


def check_readers(artifact: Artifact, for_: str | None) -> Check:
    """Check what the reader contract says of a saved model.

    Args:
        artifact: the folder.
        for_: the program that shall load it, without which the check fails; None for none in particular.

    Raises:
        ConfigError: which programs load the format is not known, and one is asked for.
    """
    stored = stored_in(artifact)
    if stored is None:
        return Check(NAME, None if for_ is None else False, "not known", "the quantization_config cannot be read")
    readings = readers_of(stored)
    if for_ is not None:
        reading = reading_of(for_, readings)
        state = "loads" if reading.loads else "does not load"
        return Check(NAME, reading.loads, f"{state} in {reading.name}", reading.remarks_on_saved)
    if not readings:
        return Check(NAME, None, "not known", "the reader contract has no row for this format")
    return Check(NAME, True, summary(readings), NONE_RUN)
