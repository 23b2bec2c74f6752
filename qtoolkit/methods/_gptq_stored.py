"""GPTQ as it reads a checkpoint back: layers are those that the file holds, each as it is there."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.kernels import memory_bytes
from qtoolkit.methods._gptq_checkpoint import find_layers, load_quantized, read_settings
from qtoolkit.methods._gptq_transformers import holds_experts
from qtoolkit.methods._method import Layer
from qtoolkit.methods._rules import rules_of
from qtoolkit.methods.gptq import GPTQ, GPTQMethod
from qtoolkit.records import LayerPlan
from qtoolkit.source.building import build_empty
from qtoolkit.source.experts import replace_experts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.methods._config import MethodConfig
    from qtoolkit.source import Checkpoint

_TENSORS = ("qweight", "qzeros", "scales", "g_idx", "bias")


def config_of(values: Mapping[str, Any]) -> GPTQ:
    """The config that a GPTQ checkpoint's `quantization_config` stands for; what it does not tell is as by default.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_settings`; also groups smaller than those that are made here.
    """
    settings = read_settings(values)
    if 0 < settings.group_size < 32:
        raise UnsupportedModelError(
            f"groups of {settings.group_size} are none of qtoolkit.GPTQ: load it with transformers' from_pretrained"
        )
    known: dict[str, Any] = {
        "bits": settings.bits,
        "group_size": settings.group_size,
        "sym": settings.sym,
        "desc_act": settings.desc_act,
        "checkpoint_format": settings.checkpoint_format,
    }
    if any(isinstance(values.get(key), bool) for key in ("desc_act", "static_groups", "act_group_aware")):
        by_activation = any(values.get(key) is True for key in ("desc_act", "static_groups", "act_group_aware"))
        known["order"] = "activation" if by_activation else "natural"
    damp, sequential = values.get("damp_percent"), values.get("true_sequential")
    if isinstance(damp, float) and 0 < damp < 1:
        known["damp_percent"] = damp
    if isinstance(sequential, bool):
        known["true_sequential"] = sequential
    if values.get("lm_head") is True:
        known["exclude"] = ()
    return GPTQ(**known)


class StoredGPTQ(GPTQMethod):
    """GPTQ for one checkpoint.

    Args:
        checkpoint: quantized, headers read.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_settings` and `find_layers`.
    """

    def __init__(self, checkpoint: "Checkpoint") -> None:
        assert checkpoint.quantization is not None
        self._settings, self._tensors = read_settings(checkpoint.quantization), checkpoint.tensors
        model = build_empty(checkpoint, checkpoint.dtype)
        self._splits_experts = holds_experts(model, checkpoint.tensors)
        if self._splits_experts:
            replace_experts(model)
        self._layers = find_layers(model, checkpoint.tensors, self._settings)

    @property
    def splits_experts(self) -> bool:  # type: ignore[override]
        """Whether experts are quantized one by one."""
        return self._splits_experts

    def resolve(self, config: Any, dtype: str, device: str) -> "MethodConfig":
        """As it is, for nothing is calibrated, with rules that give layers the bits that they have in the file."""
        assert isinstance(config, GPTQ)
        bits = {name: layer.bits for name, layer in self._layers.items()}
        return replace(config, rules=rules_of(bits, config.bits)[1])

    def fit(self, layers: tuple[Layer, ...], config: Any) -> "MethodConfig":
        """As it is."""
        assert isinstance(config, GPTQ)
        return config

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        stored = self._layers.get(layer.name)
        if stored is None:
            return layer.left_alone("not quantized in the checkpoint")
        kept = memory_bytes(stored.tensors(self._settings), device=layer.device, reordered=self._settings.desc_act)
        tensors = (self._tensors.get(f"{stored.name}.{name}") for name in _TENSORS)
        disk = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        # A file may have a bias, of zeros, where the model has none; the plan adds the model's own.
        bias = layer.out_features * layer.itemsize * (stored.bias_dtype is not None) - layer.bias_bytes
        return layer.replaced(kept + bias, disk_bytes=disk - layer.bias_bytes, working_bytes=kept, bits=stored.bits)

    def notes(self, config: Any, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """None: it was made already."""
        return ()

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "PreTrainedModel":
        assert checkpoint.quantization is not None
        return load_quantized(checkpoint, checkpoint.quantization, device=device)
