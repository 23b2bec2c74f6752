"""Open a model that is repaired: which of its layers are quantized, what they take, and what weights they have."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.adapters.applied import multiplied_weight
from qtoolkit.checkpoints.folder import read_config
from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.formats import FileFormat, format_of
from qtoolkit.jobs.checkpoint_loading import load_quantized
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.kernels import QuantizedLinear, stored_bytes
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.experts import experts_in_one_tensor
from qtoolkit.models.structure import is_linear, is_transposed, linear_shape
from qtoolkit.planning.device import adapt_dtype
from qtoolkit.quantized import QuantizedModel
from qtoolkit.quantized_file import QuantizedFile
from qtoolkit.records import Receipt, ignore_progress
from qtoolkit.requests import ModelSource
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.loading import calibration_dtype, load_streamed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Repaired:
    """A quantized model that is repaired.

    Attributes:
        name: the user's name for it.
        model: in memory; one that another program runs as a file, expanded to 16 bits.
        tokenizer: of it; None for a model without.
        receipt: of it; None for none.
        path: its folder or its file; None for a model that was not saved.
        commit_hash: of a model on the Hub.
        format: of its file, where its whole model is one of another program; None for folders of layers.
        calibrated_on: what tells passages of its calibration text again.
        notes: on how it was opened.
    """

    name: str
    model: "PreTrainedModel"
    tokenizer: Any
    receipt: Receipt | None
    path: Path | None
    commit_hash: str | None
    format: FileFormat | None
    calibrated_on: tuple[int, ...]
    notes: tuple[str, ...]

    def weight(self, layer: str) -> torch.Tensor:
        """Return the weight that a layer multiplies with, float32 [out, in]."""
        return multiplied_weight(self.model.get_submodule(layer))


def open_repaired(model: Any, source: ModelSource, device: str) -> Repaired:
    """Load the model that is repaired.

    Args:
        model: a folder, a Hub id, a `.gguf` file, or a `QuantizedModel`.
        source: its revision and token.
        device: where it goes.

    Raises:
        UnsupportedModelError: it is not quantized.
    """
    if isinstance(model, QuantizedModel):
        return _of_loaded(model, None)
    checkpoint = adapt_dtype(open_source(model, source, quantized=True), device)
    if checkpoint.quantization is not None:
        return _of_loaded(load_quantized(checkpoint, device), checkpoint)
    # The format of a file is called as what it is read as.
    file_format = format_of({"quant_method": checkpoint.format})
    if not isinstance(file_format, FileFormat):
        raise UnsupportedModelError(
            f"{checkpoint.name} is not quantized: name the quantized model that the adapter is for"
        )
    loaded = load_streamed(checkpoint, None, device=device, on_progress=ignore_progress)
    notes = (
        *checkpoint.notes,
        *loaded.notes,
        f"{file_format.program} itself computes {checkpoint.name} in its own way",
    )
    return Repaired(
        checkpoint.name,
        loaded.value,
        checkpoint.tokenizer,
        receipt=None,
        path=checkpoint.path,
        commit_hash=checkpoint.commit_hash,
        format=file_format,
        calibrated_on=(),
        notes=notes,
    )


def _of_loaded(quantized: QuantizedModel, checkpoint: Checkpoint | None) -> Repaired:
    """Return a quantized model with what a repair asks of it."""
    source = quantized.report.source
    path = quantized.path or (checkpoint.path if checkpoint else None)
    file_format = None
    if isinstance(quantized, QuantizedFile):
        assert path is not None
        folder = path if path.is_dir() else path.parent
        values = read_config(folder).get("quantization_config") or {}
        found = format_of(values)
        assert isinstance(found, FileFormat)
        file_format, path = found, folder / found.file_name(values)
    calibration = quantized.report.calibration or (quantized.receipt.calibration if quantized.receipt else None)
    return Repaired(
        str(path) if path else source.name,
        quantized.model,
        quantized.tokenizer,
        receipt=quantized.receipt,
        path=path,
        commit_hash=checkpoint.commit_hash if checkpoint else None,
        format=file_format,
        calibrated_on=calibration.sketch if calibration else (),
        notes=quantized.report.notes,
    )


@dataclass(frozen=True)
class Pair:
    """A quantized model and its base.

    Attributes:
        streamed: the base.
        shapes: [out, in] of the quantized layers in the blocks, by their full names.
        weight_bytes: that these layers take.
        transposed: whether the base holds weights as [in, out].
        left: what stays as it is, in one clause; empty for nothing.
    """

    streamed: StreamedModel
    shapes: Mapping[str, tuple[int, int]]
    weight_bytes: int
    transposed: bool
    left: str

    @property
    def num_weights(self) -> int:
        """Return the number of weights of the layers."""
        return sum(out * inputs for out, inputs in self.shapes.values())


def pair_of(repaired: Repaired, base: Checkpoint, rank: int | None, device: str) -> Pair:
    """Find the layers of a quantized model that have a weight in the base.

    Args:
        repaired: the quantized model.
        base: what it was made from.
        rank: of all layers; None where each gets its own.
        device: where the base runs.

    Raises:
        ConfigError: the base is another model, or the rank is larger than a layer.
        UnsupportedModelError: no layer in the blocks is quantized, or its program takes no adapters.
    """
    modules = dict(repaired.model.named_modules())
    quantized = [name for name, module in modules.items() if isinstance(module, QuantizedLinear)]
    dtype = calibration_dtype(device, base.dtype)
    streamed = StreamedModel(base, device=device, dtype=dtype, quantized=quantized)
    blocks = tuple(f"{name}." for name in streamed.block_names)
    linear = {name: one for name, one in streamed.model.named_modules() if name.startswith(blocks) and is_linear(one)}
    # A file's model has its experts in one tensor here, whatever the base's files have.
    in_one = [name for name in linear if name not in modules and repaired.format is not None and ".experts." in name]
    missing = [name for name in linear if name not in modules and name not in in_one]
    if missing or type(repaired.model).__name__ != type(streamed.model).__name__:
        what = f"has no {missing[0]}" if missing else f"is a {type(repaired.model).__name__}"
        raise ConfigError(f"the quantized model {what}, unlike {base.name}: give what it was made from as base")
    sizes = _sizes(repaired, {name: modules[name] for name in linear if name in modules})
    if not sizes:
        raise UnsupportedModelError(f"no linear layer in the blocks of {base.name} is quantized: nothing to repair")
    shapes = {name: _shape(modules[name]) for name in sizes}
    smallest = min(shapes, key=lambda name: min(shapes[name]))
    if rank is not None and rank > min(shapes[smallest]):
        out, inputs = shapes[smallest]
        raise ConfigError(f"rank={rank} is larger than {smallest} ({out} x {inputs}): give at most {min(out, inputs)}")
    together = experts_in_one_tensor(streamed.model, quantized)
    left = len(linear) - len(sizes) - len(in_one)
    clauses = (
        f"{left} linear layers in the blocks are not quantized" if left else "",
        f"the experts of {len(together)} blocks are one tensor each, which takes no adapter" if together else "",
        f"{len(in_one)} layers of experts are read as one tensor" if in_one else "",
    )
    return Pair(
        streamed,
        shapes,
        sum(sizes.values()),
        transposed=any(is_transposed(one) for one in linear.values()),
        left=", and ".join(filter(None, clauses)),
    )


def _sizes(repaired: Repaired, modules: Mapping[str, Any]) -> dict[str, int]:
    """Return the bytes of the layers that are quantized, as a file stores them where that is known."""
    if repaired.format is not None:
        assert repaired.path is not None
        return repaired.format.quantized_layers(repaired.path, repaired.model.config, modules)
    layers = {name: module for name, module in modules.items() if not is_linear(module)}
    return {
        name: stored_bytes(layer.stored) if isinstance(layer, QuantizedLinear) else memory_footprint(layer)
        for name, layer in layers.items()
    }


def _shape(module: Any) -> tuple[int, int]:
    """Return the shape of a layer's weight, (out, in); GPT-2's Conv1D names it otherwise."""
    if is_transposed(module):
        return linear_shape(module)
    return module.out_features, module.in_features
