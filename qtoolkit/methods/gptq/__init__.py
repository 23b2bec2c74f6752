"""GPTQ: choose codes column by column, compensating each column's error in those not yet done (arXiv 2210.17323)."""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from qtoolkit.errors import ConfigError
from qtoolkit.formats import Layer
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.method import Method, Offer, Outcome
from qtoolkit.methods.mixed_precision import MixedConfig
from qtoolkit.records import LayerPlan, OnProgress, PhasePlan, Plan
from qtoolkit.requests import option

if TYPE_CHECKING:
    from torch import Tensor

    from qtoolkit.formats.gptq.tensors import GPTQTensors
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.stream.cost import JobShape
    from qtoolkit.stream.journal import JournalLocation

# Inputs and outputs that every reader of the format packs without a remainder: 32 codes of 3 bits fill 3 words.
_MULTIPLE = 32
_SMALLEST_GROUP = 32


@dataclass(frozen=True, kw_only=True)
class GPTQ(MixedConfig):
    """GPTQ: codes of 2, 3, 4 or 8 bits, chosen so that each layer's outputs on a calibration text change least."""

    method: ClassVar[str] = "gptq"
    format: ClassVar[str] = "gptq"

    bits: int = option(4, choices=(2, 3, 4, 8), help="size of a code", unit="bits per weight", per_layer=True)
    group_size: int = option(
        128, help="inputs of one output that share a scale, -1 for all; the largest that divides, where this does not"
    )
    sym: bool = option(True, help="zero point in the middle of the codes; false fits one to each group")
    full_range: bool = option(
        True, help="let scales have either sign, so that the codes reach further on the side that needs it (if sym)"
    )
    desc_act: bool = option(
        False, help="form the groups in order of activation: the file then has a g_idx, and runs slower"
    )
    damp_percent: float = option(0.01, help="share of the mean of the Hessian's diagonal that is added to it")
    calibration: Any = option(
        "wikitext2", help="text to calibrate with: wikitext2, c4, self, a file, a list of texts, or a Dataset"
    )
    num_samples: int = option(128, help="samples of the calibration text", unit="samples")
    seq_len: int = option(2048, help="length of a sample", unit="tokens")
    order: str = option(
        "activation",
        choices=("activation", "natural"),
        help="order in which columns are done: those of strongest activation first, or as they stand",
    )
    true_sequential: bool = option(
        True, help="let each layer of a block see what the layers before it make once they are quantized"
    )
    checkpoint_format: str = option(
        "gptq", choices=("gptq", "gptq_v2"), help="how zero points are stored: gptq is AutoGPTQ's, less one"
    )
    engine: str = option(
        "qtoolkit", choices=("qtoolkit", "optimum"), help="who does the work: qtoolkit, or optimum with gptqmodel"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.group_size != -1 and self.group_size < _SMALLEST_GROUP:
            raise ConfigError(f"{name}: group_size must be -1, or at least {_SMALLEST_GROUP}, got {self.group_size}")
        if not 0 < self.damp_percent < 1:
            raise ConfigError(f"{name}: damp_percent must lie between 0 and 1, got {self.damp_percent}")
        if self.desc_act and self.order != "activation":
            raise ConfigError(f"{name}: desc_act=True forms groups in order of activation: leave order='activation'")
        if self.engine == "optimum" and (self.rules or self.target is not None):
            raise ConfigError(
                f"{name}: optimum gives all layers the same bits: leave out rules and targets, or engine='optimum'"
            )
        for field in ("num_samples", "seq_len"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{name}: {field} must be at least 1, got {getattr(self, field)}")

    def bits_to_give(self) -> tuple[int, ...]:
        """See `MixedConfig`; without 2 bits if `sym`, where the loss is no longer predicted to second order."""
        return tuple(bits for bits in super().bits_to_give() if bits > 2 or not self.sym)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values; calibration text that is no file is replaced by its description."""
        text = self.calibration
        if isinstance(text, list | tuple):
            text = f"{len(text)} texts"
        elif not isinstance(text, str):
            text = os.fspath(text) if isinstance(text, os.PathLike) else type(text).__name__
        return super().to_dict() | {"calibration": text}


class GPTQMethod(Method):
    """Quantize block by block, each layer's codes fitted to its inputs on a calibration text."""

    config_class = GPTQ
    title = "GPTQ"
    offers = (
        Offer({"bits": 8}, None, "transformers, vLLM, gptqmodel"),
        Offer({}, 1.081, "transformers, vLLM, gptqmodel, auto-gptq"),
        Offer({"bits": 3}, 1.399, "transformers, gptqmodel, auto-gptq"),
    )
    recipes = (
        *({"bits": bits, "group_size": size} for bits in (2, 3, 4) for size in (32, 64, 128)),
        {"bits": 8, "group_size": 128},
    )
    summary = "2, 3, 4 or 8 bits fitted to a calibration text, block by block; AutoGPTQ's format"
    splits_experts = True
    resumes = True

    def resolve(self, config: GPTQ, dtype: str, device: str) -> MethodConfig:
        """See `Method`: refuse a calibration text that cannot be used."""
        from qtoolkit.texts.texts import check_texts

        check_texts(config.calibration, "calibration")
        return config

    def fit(self, layers: tuple[Layer, ...], config: GPTQ) -> MethodConfig:
        """See `Method`: choose one group size for all layers, since the format stores one and readers rely on it."""
        inputs = sorted({layer.in_features for layer in layers if not _skip_reason(layer)})
        if not inputs or config.group_size == -1:
            return config
        # Inputs are multiples of 32, so that one always divides; kernels need a power of two.
        sizes = [
            size
            for size in range(config.group_size, _SMALLEST_GROUP - 1, -1)
            if all(count % size == 0 for count in inputs)
        ]
        powers = [size for size in sizes if size & (size - 1) == 0]
        size = config.group_size if config.group_size in sizes else powers[0]
        return replace(config, group_size=size)

    def plan_layer(self, layer: Layer, config: GPTQ) -> LayerPlan:
        """See `Method`."""
        from qtoolkit.kernels import memory_bytes, stored_bytes

        reason = _skip_reason(layer)
        if reason:
            return layer.left_alone(reason)
        tensors = stored_tensors(config, layer.out_features, layer.in_features, bits=config.bits)
        stored = stored_bytes(tensors)
        # The Hessian and its factor, the weight and its errors in float32, the codes.
        working = 8 * layer.in_features**2 + 9 * layer.num_weights + stored
        packed = memory_bytes(tensors, device=layer.device, reordered=config.desc_act)
        return layer.replaced(packed, disk_bytes=stored, working_bytes=working, bits=config.bits)

    def notes(self, config: GPTQ, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """See `Method`."""
        from qtoolkit.formats.gptq.config import notes_on

        return notes_on(config, layers)

    def rounded(self, weight: "Tensor", layer: Layer, config: GPTQ) -> "Tensor":
        """See `Method`."""
        from qtoolkit.methods.gptq.layer_groups import round_to_grid

        return round_to_grid(weight, config)

    def phases(self, job: "JobShape", config: GPTQ) -> tuple[PhasePlan, ...]:
        """See `Method`."""
        from qtoolkit.methods.gptq.estimates import gptq_phases

        return gptq_phases(job, config)

    def quantize(
        self,
        checkpoint: "Checkpoint",
        config: GPTQ,
        plan: Plan,
        on_progress: OnProgress,
        journal: "JournalLocation | None" = None,
    ) -> Outcome:
        """See `Method`."""
        from qtoolkit.methods.gptq.calibrated_job import quantize

        return quantize(checkpoint, config, plan, on_progress, journal)


def stored_tensors(config: GPTQ, out_features: int, in_features: int, *, bits: int) -> "GPTQTensors":
    """Return how the weight of a layer with these bits is stored with this config."""
    from qtoolkit.formats.gptq.tensors import GPTQTensors

    return GPTQTensors(
        out_features,
        in_features,
        bits=bits,
        group_size=config.group_size,
        checkpoint_format=config.checkpoint_format,
        centered=config.sym,
    )


def _skip_reason(layer: Layer) -> str:
    """Return why a layer cannot be quantized; empty where it can."""
    if not layer.in_block:
        return "outside the blocks, which alone the format's readers look for"
    if layer.in_features % _MULTIPLE or layer.out_features % _MULTIPLE:
        shape = f"[{layer.out_features}, {layer.in_features}]"
        return f"the format needs outputs and inputs in multiples of {_MULTIPLE}, not {shape}"
    return ""


METHOD = GPTQMethod()
