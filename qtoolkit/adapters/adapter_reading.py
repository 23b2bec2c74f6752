"""Read a LoRA adapter of peft as the changes that it makes to weights, checked before any work."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from qtoolkit.adapters.adapter_config import AdapterConfig, read_config_of
from qtoolkit.adapters.adapter_folder import ADAPTER_WEIGHTS, PREFIX, REPAIRS, A, B
from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG
from qtoolkit.checkpoints.remedy import refuse_pointers
from qtoolkit.checkpoints.safetensors import read_tensors
from qtoolkit.errors import CheckpointError, ModelNotFoundError, UnsafeCheckpointError, UnsupportedModelError
from qtoolkit.files import sha256_of

_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Change:
    """The change of one weight, `scaling` * B A.

    Attributes:
        a: A [rank, in].
        b: B [out, rank].
        scaling: `lora_alpha` by the rank, or by its root.
        group_size: neighbouring inputs that the change is the same for: more than 1 of QA-LoRA.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    group_size: int = 1

    @property
    def rank(self) -> int:
        """Return the rank."""
        return len(self.a)

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of the weight, (out, in)."""
        return len(self.b), self.a.shape[1]

    def product(self) -> torch.Tensor:
        """Return the change itself, float32 [out, in]; of QA-LoRA, the same number to the bit throughout a group."""
        grouped = self.scaling * (self.b.float() @ self.a[:, :: self.group_size].float())
        return grouped if self.group_size == 1 else grouped.repeat_interleave(self.group_size, dim=1)


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read.

    Attributes:
        folder: its folder.
        base: what it names as its base; None for nothing.
        revision: the commit or branch of that; None for nothing.
        changes: by the full names of the layers.
        sha256: of its weight file.
        repairs: whether qtoolkit computed it to make good what the codes of its base have lost.
    """

    folder: Path
    base: str | None
    revision: str | None
    changes: Mapping[str, Change]
    sha256: str
    repairs: bool

    @property
    def name(self) -> str:
        """Return its folder's own name."""
        return self.folder.resolve().name


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter from its folder.

    Raises:
        ModelNotFoundError: the folder holds none.
        UnsafeCheckpointError: its weights are pickled.
        UnsupportedModelError: it is no LoRA, or changes more than linear layers.
        CheckpointError: its weights are damaged, or not those of its config.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelNotFoundError(f"{folder} holds no adapter: {ADAPTER_CONFIG} is missing, which peft writes")
    refuse_pointers(folder, [ADAPTER_CONFIG, "adapter_model.*"])
    if not (folder / ADAPTER_WEIGHTS).is_file():
        if any(folder.glob("adapter_model.*")):
            raise UnsafeCheckpointError(
                f"{folder} holds a pickled adapter, and unpickling runs code: ask its author for {ADAPTER_WEIGHTS}"
            )
        raise CheckpointError(f"{folder} lacks {ADAPTER_WEIGHTS}: get the adapter again")
    config = read_config_of(folder)
    return Adapter(
        folder=folder,
        base=config.base,
        revision=config.revision,
        changes=_read_changes(folder, config),
        sha256=sha256_of(folder / ADAPTER_WEIGHTS),
        repairs=_repairs(folder / ADAPTER_WEIGHTS),
    )


def _read_changes(folder: Path, config: AdapterConfig) -> dict[str, Change]:
    """Return the change of each layer, by its full name."""
    stored = read_tensors(folder / ADAPTER_WEIGHTS)
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in stored.items()}
    layers = {key.removesuffix(f".{A}").removesuffix(f".{B}") for key in tensors}
    if not layers or len(tensors) < len(stored):
        what = "names a matrix twice" if layers else "holds no matrices"
        raise CheckpointError(f"{folder} {what}: get the adapter again")
    changes = {}
    for name in sorted(layers):
        pair = tensors.get(f"{name}.{A}"), tensors.get(f"{name}.{B}")
        if pair[0] is None or pair[1] is None:
            raise UnsupportedModelError(f"{folder} has {name} without a pair of matrices of a linear layer: not merged")
        a, b = (one[...] for one in pair if one is not None)
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not a.numel() or not b.numel():
            raise CheckpointError(f"{folder}: {name} has matrices {list(b.shape)} and {list(a.shape)}: get it again")
        if not (a.is_floating_point() and b.is_floating_point()):
            raise CheckpointError(f"{folder}: {name} has matrices of {a.dtype} and {b.dtype}: get the adapter again")
        scaling = config.scaling_of(name, len(a))
        # Of NaN, too, the product is not smaller.
        if not (abs(scaling) + 1) * len(a) * a.double().abs().max() * b.double().abs().max() < _LARGEST:
            raise CheckpointError(f"{folder}: {name} holds NaN or infinity, or products do: train the adapter again")
        size = config.group_size
        changes[name] = Change(a=_of_inputs(a, size), b=b, scaling=scaling, group_size=size)
    return changes


def _of_inputs(a: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return A [rank, in] of QA-LoRA's A [rank, groups].

    peft multiplies A with the means of groups times the number of groups (`QALoraLinearVariant`).
    """
    if group_size == 1:
        return a
    return a.float().repeat_interleave(group_size, dim=1) * (a.shape[1] / group_size)


def _repairs(file: Path) -> bool:
    """Check whether the metadata of a weight file, whose header was checked, names a repair."""
    with safe_open(file, framework="pt") as opened:
        return REPAIRS.items() <= (opened.metadata() or {}).items()
