"""Read a LoRA adapter of peft as the changes that it makes to weights, checked before any work."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from qtoolkit.adapters.adapter_folder import ADAPTER_WEIGHTS, PREFIX, REPAIRS, A, B
from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG
from qtoolkit.checkpoints.remedy import refuse_pointers
from qtoolkit.checkpoints.safetensors import read_tensors
from qtoolkit.errors import CheckpointError, ModelNotFoundError, UnsafeCheckpointError, UnsupportedModelError
from qtoolkit.files import read_json, sha256_of

# Entries of an adapter's config that change more than a product of two matrices does, with what means nothing.
_MORE = {
    "use_dora": False,
    "lora_bias": False,
    "bias": "none",
    "modules_to_save": None,
    "layer_replication": None,
    "target_parameters": None,
    "trainable_token_indices": None,
}


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
    values = read_json(folder / ADAPTER_CONFIG)
    kind = values.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(f"{folder} holds an adapter of type {kind!r:.40}: LoRA alone is merged")
    used = next((key for key, nothing in _MORE.items() if values.get(key, nothing) not in (nothing, None, [])), None)
    if used is not None:
        raise UnsupportedModelError(
            f"{folder} has {used}={values[used]!r:.60}, which changes more than a product of two matrices does: "
            "merge it with peft in full precision, and quantize the result"
        )
    base, revision = values.get("base_model_name_or_path"), values.get("revision")
    return Adapter(
        folder=folder,
        base=base if isinstance(base, str) and base else None,
        revision=revision if isinstance(revision, str) and revision else None,
        changes=_read_changes(folder, values),
        sha256=sha256_of(folder / ADAPTER_WEIGHTS),
        repairs=_repairs(folder / ADAPTER_WEIGHTS),
    )


def _read_changes(folder: Path, values: Mapping[str, Any]) -> dict[str, Change]:
    """Return the change of each layer, by its full name."""
    file = folder / ADAPTER_WEIGHTS
    tensors = {key.removeprefix(PREFIX): tensor[...] for key, tensor in read_tensors(file).items()}
    layers = {key.removesuffix(f".{A}").removesuffix(f".{B}") for key in tensors}
    alpha = values.get("lora_alpha")
    if not layers or isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise CheckpointError(f"{folder} holds no matrices, or no lora_alpha: get the adapter again")
    group_size = _group_size(folder, values)
    alphas = values.get("alpha_pattern") or {}
    if not isinstance(alphas, dict):
        raise CheckpointError(f"{folder} has alpha_pattern={alphas!r:.40}, which is no object: get the adapter again")
    changes = {}
    for name in sorted(layers):
        a, b = tensors.get(f"{name}.{A}"), tensors.get(f"{name}.{B}")
        if a is None or b is None:
            raise UnsupportedModelError(f"{folder} has {name} without a pair of matrices of a linear layer: not merged")
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not len(a):
            raise CheckpointError(f"{folder}: {name} has matrices {list(b.shape)} and {list(a.shape)}: get it again")
        if not (a.float().isfinite().all() and b.float().isfinite().all()):
            raise CheckpointError(f"{folder}: {name} holds NaN or infinity: train the adapter again")
        rank = len(a)
        own = _alpha_of(name, alphas, alpha)
        scaling = own / rank**0.5 if values.get("use_rslora") else own / rank
        changes[name] = Change(a=_of_inputs(a, group_size), b=b, scaling=scaling, group_size=group_size)
    return changes


def _group_size(folder: Path, values: Mapping[str, Any]) -> int:
    """Return how many inputs share a column of A: 1 but for QA-LoRA."""
    size = values.get("qalora_group_size") if values.get("use_qalora") else 1
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise CheckpointError(f"{folder} has qalora_group_size={size!r:.40}: get the adapter again")
    return size


def _of_inputs(a: torch.Tensor, group_size: int) -> torch.Tensor:
    """Return A [rank, in] of QA-LoRA's A [rank, groups].

    peft multiplies A with the means of groups times the number of groups (`QALoraLinearVariant`).
    """
    if group_size == 1:
        return a
    return a.float().repeat_interleave(group_size, dim=1) * (a.shape[1] / group_size)


def _alpha_of(name: str, alphas: Mapping[str, Any], alpha: float) -> float:
    """Return the `lora_alpha` of a layer: of the first pattern that its name ends with, as peft finds it."""
    for pattern, own in alphas.items():
        if (name == pattern or name.endswith(f".{pattern}")) and isinstance(own, int | float):
            return float(own)
    return alpha


def _repairs(file: Path) -> bool:
    """Check whether the metadata of a weight file, whose header was checked, names a repair."""
    with safe_open(file, framework="pt") as opened:
        return REPAIRS.items() <= (opened.metadata() or {}).items()
