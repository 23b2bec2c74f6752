"""Hold a model that is located and checked, and whose weights are not read yet."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.expanded_tensors import stored_bytes
from qtoolkit.checkpoints.safetensors import ReportedTensor, StoredTensor
from qtoolkit.measure.footprint import beside_bytes
from qtoolkit.models.building import build_skeleton
from qtoolkit.models.experts import find_experts, tensors_apart
from qtoolkit.models.experts_apart import named_as_saved
from qtoolkit.models.layers_in_one import layers_apart, may_hold_in_one
from qtoolkit.records import ModelSource

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

    from qtoolkit.noted import Noted

# The bytes of each tensor that go into the fingerprint.
_SAMPLED_BYTES = 1024


@dataclass(frozen=True)
class Checkpoint:
    """A model that a method can quantize: its config, and its weights by name, each read when it is indexed.

    Attributes:
        name: the name, path or class that the user gave.
        config: transformers' config of the model.
        tensors: weights by their name in the file; a `StoredTensor` is read when it is indexed.
        dtype: the torch type that the model is loaded in.
        format: "safetensors", "gguf", "loaded" or "config".
        path: the folder or file of the weights; None for a loaded model.
        commit_hash: the Hub commit; None for a model that is not from the Hub.
        disk_size: bytes of the weight files; None for a loaded model.
        tokenizer: the model's tokenizer; None when it has none.
        generation_config: the model's own options of generating; None to derive them from the config.
        model_class: the class of a loaded model; None for the one that transformers has for the config.
        notes: what was decided while it was opened and prepared for a device; one line each.
        tokenizer_bytes: bytes of the tokenizer's own file; 0 when it has none.
        download_bytes: bytes that are still to be downloaded.
        license: the license that its card names, such as "apache-2.0"; None where that is not known.
        gated: whether the Hub gives it only to users who accepted its terms; None where that is not known.
        inherited: other entries of its card that hold for a copy, as `qtoolkit.hub.licenses.inherited` returns them.
        checked: whether its files have the hashes that the Hub names, "checked: ...", or why that is not known,
            "not checked: ..."; empty for a plan.
        expand: returns `tensors` for a file whose tensors cannot be read one by one; None for all others.
        stored_as: how the files store weights that are expanded when they are read, "FP8"; empty for full precision.
    """

    name: str
    config: "PreTrainedConfig"
    tensors: Mapping[str, StoredTensor | torch.Tensor]
    dtype: torch.dtype
    format: str
    path: Path | None = None
    commit_hash: str | None = None
    disk_size: int | None = None
    tokenizer: Any = None
    generation_config: "GenerationConfig | None" = None
    model_class: "type[PreTrainedModel] | None" = None
    notes: tuple[str, ...] = ()
    expand: Callable[[], Mapping[str, torch.Tensor]] | None = None
    tokenizer_bytes: int = 0
    download_bytes: int = 0
    license: str | None = None
    gated: bool | None = None
    inherited: Mapping[str, Any] = field(default_factory=dict)
    checked: str = ""
    stored_as: str = ""
    # Empty until the skeleton is built; copies share it.
    _built: "list[Noted[PreTrainedModel]]" = field(default_factory=list, repr=False)

    @property
    def skeleton(self) -> "PreTrainedModel":
        """Return the model on the meta device, with every module and shape and without values; it is built once.

        Raises:
            CheckpointError: no model can be built from the config, weights are missing or have other shapes.
            UnsupportedModelError: a loaded model that holds more, or less, than its class makes from its config.
        """
        return self._noted_skeleton().value

    @property
    def skeleton_notes(self) -> tuple[str, ...]:
        """Return notes on the skeleton, one line each: weights that are left out. Raises as `skeleton`."""
        return self._noted_skeleton().notes

    def _noted_skeleton(self) -> "Noted[PreTrainedModel]":
        if not self._built:
            self._built.append(build_skeleton(self))
        return self._built[0]

    def with_notes(self, *notes: str) -> "Checkpoint":
        """Return a copy with these notes after its own, each note once."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    @property
    def quantization(self) -> dict[str, Any] | None:
        """Return the config's `quantization_config` as a dict; None when the model is in full precision."""
        values = getattr(self.config, "quantization_config", None)
        return values if values is None or isinstance(values, dict) else values.to_dict()

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights once they are read."""
        tensors = self.skeleton.parameters() if self.expand else self.tensors.values()
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def read_bytes(self) -> int:
        """Return the bytes that are read from the files: fewer than `weight_bytes` of weights that are expanded."""
        return self.weight_bytes if self.expand else stored_bytes(self.tensors)

    def fingerprint(self) -> str:
        """Return a SHA-256 hash of every tensor's name, type, shape and first values, which changed weights change.

        For a `.gguf` file, it is a hash of the size and of the first megabyte.
        """
        digest = hashlib.sha256()
        if self.expand is not None:
            assert self.path is not None
            with self.path.open("rb") as file:
                digest.update(f"{self.disk_size}".encode() + file.read(1_000_000))
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode() + _first_bytes(tensor))
        return digest.hexdigest()

    def hand_over(self, on_read: Callable[[str, torch.Tensor], None]) -> dict[str, ReportedTensor]:
        """Return the weights for a loader that reads each once; `on_read` is called with the name and value of each.

        Weights that were expanded for this are freed one by one, as the loader reads them.
        """
        tensors = self.expand() if self.expand else self.tensors
        return {name: ReportedTensor(tensor, partial(on_read, name)) for name, tensor in tensors.items()}

    def named_as_stored(self, model: "PreTrainedModel") -> Mapping[str, StoredTensor | torch.Tensor]:
        """Return the tensors under the names that `save_pretrained` gives them; a model in memory may have others.

        Args:
            model: the model without values, which tells transformers what it merged.
        """
        if self.format in ("safetensors", "gguf") and self.expand is None:
            return self.tensors
        return named_as_saved(model, self.expand() if self.expand else self.tensors)

    def with_layers_apart(self) -> "Checkpoint":
        """Return a checkpoint in which layers that its file holds as one tensor have tensors of their own."""
        if self.expand is not None or not may_hold_in_one(self.config):
            return self
        return replace(self, tensors=layers_apart(self.skeleton, self.tensors))

    def with_experts_apart(self, quantized: Iterable[str] | None) -> "Checkpoint":
        """Return a checkpoint whose tensors are named as in files, those of experts that are quantized one by one.

        Args:
            quantized: full names of the layers, as the model has them once experts are split; None for those of all
                experts, quantized or not.
        """
        model, experts = self.skeleton, find_experts(self.skeleton, quantized)
        if self.expand is not None:
            expand = self.expand
            return replace(self, expand=lambda: tensors_apart(model, named_as_saved(model, expand()), experts))  # type: ignore[arg-type,return-value]
        return replace(self, tensors=tensors_apart(model, self.named_as_stored(model), experts))

    def record(self, beside: int | None = None) -> ModelSource:
        """Return the record of the checkpoint.

        Args:
            beside: `beside_bytes` of its skeleton, where that is known; None to count them.
        """
        parameters = list(self.skeleton.parameters())
        tensors = {id(tensor): tensor for tensor in [*parameters, *self.skeleton.buffers()]}
        return ModelSource(
            name=self.name,
            path=str(self.path) if self.path else None,
            commit_hash=self.commit_hash,
            format=self.format,
            architecture=type(self.skeleton).__name__,
            dtype=str(self.dtype).removeprefix("torch."),
            num_parameters=sum(parameter.numel() for parameter in parameters),
            footprint=sum(tensor.nbytes for tensor in tensors.values())
            + (beside_bytes(self.skeleton) if beside is None else beside),
            disk_size=self.disk_size,
            stored_as=self.stored_as,
        )


def _first_bytes(tensor: StoredTensor | torch.Tensor) -> bytes:
    """Return the bytes of a tensor's first values."""
    if isinstance(tensor, StoredTensor):
        return tensor.first_bytes(_SAMPLED_BYTES)
    values = tensor.detach().flatten()[: _SAMPLED_BYTES // tensor.element_size()]
    return values.cpu().contiguous().view(torch.uint8).numpy().tobytes()
