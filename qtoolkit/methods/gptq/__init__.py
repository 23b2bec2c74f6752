"""GPTQ: choose codes column by column, compensating each column's error in those not yet done (arXiv 2210.17323)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from qtoolkit.errors import ConfigError
from qtoolkit.formats import Layer, get_grouped_format
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.method import Method, Offer, Outcome
from qtoolkit.methods.sharded import Sharded, refuse_unshared
from qtoolkit.records import LayerPlan, OnProgress, PhasePlan, Plan
from qtoolkit.requests import option
from qtoolkit.texts.mixtures import read_mixture

if TYPE_CHECKING:
    from torch import Tensor

    from qtoolkit.formats import GroupedFormat
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.stream.cost import JobShape
    from qtoolkit.stream.journal import JournalLocation
    from qtoolkit.stream.shards import Workers
    from qtoolkit.tensor.hessian import Hessian

_SMALLEST_GROUP = 32
# Rounds of refining where nobody says how many, and the bits with which nothing is left to gain (benchmarks/README.md).
_ROUNDS = 3
# Tokens for each input from which a layer is corrected in whole for what layers before it have changed: with fewer it
# would follow their noise. SmolLM2-135M in 4 bits, calibrated on 1,024 tokens: KL divergence 0.38 with qep_alpha 0.5
# throughout, 0.11 without.
ENOUGH_TOKENS = 8
_TOO_EXACT = 8


@dataclass(frozen=True, kw_only=True)
class GPTQ(Sharded):
    """GPTQ: codes of 2 to 8 bits, chosen so that each layer's outputs on a calibration text change least."""

    method: ClassVar[str] = "gptq"

    bits: int = option(4, choices=(2, 3, 4, 5, 6, 8), help="size of a code", unit="bits per weight", per_layer=True)
    format: str = option(  # type: ignore[misc]
        "gptq",
        choices=("gptq", "compressed-tensors", "mlx"),
        help="how the codes are stored: gptq is AutoGPTQ's and holds 2, 3, 4 or 8 bits, compressed-tensors is vLLM's, "
        "mlx that of Macs",
        absent="gptq",
    )
    group_size: int = option(
        128, help="inputs of one output that share a scale, -1 for all; the largest that divides, where this does not"
    )
    sym: bool = option(True, help="zero point in the middle of the codes; false fits one to each group")
    full_range: bool = option(
        True,
        help="let scales have either sign, so that the codes reach further on the side that needs it; "
        "without effect if sym is false",
        absent=False,
    )
    refine: int | None = option(
        None,
        help="how often scales and codes are chosen again after solving, each with all others fixed; None for "
        f"{_ROUNDS}, or for 0 where all layers have {_TOO_EXACT} bits",
        unit="rounds",
        least=0,
        absent=0,
    )
    desc_act: bool = option(
        False, help="form the groups in order of activation: the file then has a g_idx, and runs slower"
    )
    damp_percent: float = option(0.03, help="share of the mean of the Hessian's diagonal that is added to it")
    calibration: Any = option(
        "wikitext2",
        help="text to calibrate with: wikitext2, c4, self, a file or folder of texts, chats or tables, a list, "
        "a Dataset, or several with their shares (wikitext2=0.5,chat.jsonl=0.5)",
    )
    calibration_column: str | None = option(
        None,
        help="column of the calibration text that holds texts or chats; None chooses one by its name",
        absent=None,
    )
    num_samples: int = option(128, help="samples of the calibration text", unit="samples", least=1)
    seq_len: int = option(2048, help="length of a sample", unit="tokens", least=1)
    order: str = option(
        "activation",
        choices=("activation", "natural"),
        help="order in which columns are done: those of strongest activation first, or as they stand",
    )
    true_sequential: bool = option(
        True, help="let each layer of a block see what the layers before it make once they are quantized"
    )
    qep_alpha: float = option(
        0.5,
        help="share of what quantized layers have changed that the layers after them make good (QEP); 0 for none",
        absent=0.0,
    )
    embeddings: int | None = option(
        None,
        help="size of a code of the token embedding and the output head where the format holds them: 8 or 4 in "
        "compressed-tensors, any in mlx",
        unit="bits per weight",
        empty="they stay as they are",
        absent=None,
    )
    lossy: bool = option(
        False,
        help="let mlx round the minimum of each group of asymmetric codes, which it stores instead of a zero point",
        absent=False,
    )
    token_weights: bool = option(
        False,
        help="weigh each token of the calibration text by how much its outputs matter to the model's (GuidedQuant)",
        absent=False,
    )
    checkpoint_format: str = option(
        "gptq", choices=("gptq", "gptq_v2"), help="how zero points are stored: gptq is AutoGPTQ's, less one"
    )
    engine: str = option(
        "qtoolkit", choices=("qtoolkit", "optimum"), help="who does the work: qtoolkit, or optimum with gptqmodel"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "calibration", read_mixture(self.calibration))
        name = type(self).__name__
        if self.group_size != -1 and self.group_size < _SMALLEST_GROUP:
            raise ConfigError(f"{name}: group_size must be -1, or at least {_SMALLEST_GROUP}, got {self.group_size}")
        if not 0 < self.damp_percent < 1:
            raise ConfigError(f"{name}: damp_percent must lie between 0 and 1, got {self.damp_percent}")
        if not 0 <= self.qep_alpha <= 1:
            raise ConfigError(f"{name}: qep_alpha must lie between 0 (off) and 1, got {self.qep_alpha}")
        if self.desc_act and self.order != "activation":
            raise ConfigError(f"{name}: desc_act=True forms groups in order of activation: leave order='activation'")
        if self.engine == "optimum":
            self._refuse_with_optimum(name)
        get_grouped_format(self)
        if self.lossy and (self.sym or not self.stored_as.group_sizes):
            raise ConfigError(f"{name}: nothing is lost here: leave lossy out, or give format='mlx' and sym=False")
        if self.embeddings is not None and self.target is not None:
            raise ConfigError(
                f"{name}: a target gives bits to layers in blocks alone: leave out embeddings, or target_bits and "
                "target_size"
            )

    def for_embeddings(self, width: int) -> "GPTQ":
        """Return the config of an embedding of this width: symmetric codes in groups of 64, or 32 where 64 is none."""
        assert self.embeddings is not None
        size = 64 if width % 64 == 0 else 32
        return replace(
            self,
            bits=self.embeddings,
            group_size=size,
            sym=True,
            lossy=False,
            order="natural",
            rules={},
            embeddings=None,
        )

    def _refuse_with_optimum(self, name: str) -> None:
        """Refuse options that optimum cannot follow and that nobody gets unasked."""
        if self.rules or self.target is not None:
            raise ConfigError(
                f"{name}: optimum gives all layers the same bits: leave out rules and targets, or engine='optimum'"
            )
        if self.format != (own := type(self).format):
            raise ConfigError(f"{name}: optimum writes {own!r} alone: leave out format, or engine='optimum'")
        if not self.propagate:
            raise ConfigError(f"{name}: optimum lets blocks see others: leave out propagate, or engine='optimum'")
        if self.token_weights:
            raise ConfigError(f"{name}: optimum weighs no tokens: leave out token_weights, or engine='optimum'")

    @property
    def stored_as(self) -> "GroupedFormat":
        """Return the format that stores the codes."""
        return get_grouped_format(self)

    @property
    def rounds(self) -> int:
        """Return how often each layer is refined: `refine`, or as the bits ask that layers have or may get."""
        if self.refine is not None:
            return self.refine
        bits = [self.bits, *(values["bits"] for values in self.rules.values() if "bits" in values)]
        if self.target is not None:
            bits.extend(self.choices_to_give())
        return _ROUNDS if min(bits) < _TOO_EXACT else 0

    def as_given(self) -> "GPTQ":
        """See `MethodConfig`: without the rounds, where these are what the bits ask for."""
        without = replace(self, refine=None)
        return without if self.refine == without.rounds else self

    def choices_to_give(self) -> tuple[int, ...]:
        """See `MixedConfig`: those that the format holds; not 2 with scales of one sign, which destroy a layer."""
        held = self.stored_as.widths
        useful = 2 if self.full_range or not self.sym else 3
        return tuple(bits for bits in map(int, super().choices_to_give()) if bits in held and bits >= useful)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values; calibration text that is no file is replaced by its description."""
        from qtoolkit.texts.calibration_sources import describe_calibration

        return super().to_dict() | {"calibration": describe_calibration(self.calibration)}


class GPTQMethod(Method):
    """Quantize block by block, each layer's codes fitted to its inputs on a calibration text."""

    config_class = GPTQ
    title = "GPTQ"
    offers = (Offer({"bits": 8}, None), Offer({}, 1.040), Offer({"bits": 3}, 1.157))
    recipes = (
        *({"bits": bits, "group_size": size} for bits in (2, 3, 4) for size in (32, 64, 128)),
        {"bits": 8, "group_size": 128},
    )
    summary = "2 to 8 bits fitted to a calibration text, block by block; AutoGPTQ's format, compressed-tensors or MLX"
    splits_experts = True
    corrects = True

    def planner_of(self, checkpoint: "Checkpoint", config: GPTQ) -> "Method":
        """See `Method`: refuse a model whose blocks cannot run one by one."""
        from qtoolkit.models.block_passing import check_one_by_one

        if config.engine != "optimum":
            check_one_by_one(checkpoint.name, checkpoint.skeleton)
        return self

    def resumes(self, config: GPTQ) -> bool:
        """See `Method`."""
        return True

    def refuse_workers(self, config: GPTQ, *, option: str = "executor") -> None:
        """See `Method`: one whose samples are in one shard, or whom another engine makes."""
        refuse_unshared(config, engine=config.engine, option=option)

    def resolve(self, config: GPTQ, dtype: str, device: str) -> MethodConfig:
        """See `Method`: refuse a calibration text that cannot be used, and say how many rounds of refining are meant.

        optimum knows none of the later options but the column, since the text is read here for both.
        """
        from qtoolkit.texts.calibration_sources import check_calibration

        check_calibration(config.calibration, config.calibration_column)
        if config.engine == "optimum":
            return replace(config, **{**config.absent(), "calibration_column": config.calibration_column})
        return replace(config, refine=config.rounds)

    def fit(self, layers: tuple[Layer, ...], config: GPTQ) -> MethodConfig:
        """See `Method`: choose one group size for all layers, since the format stores one and readers rely on it."""
        skips = config.stored_as.reason_to_skip
        inputs = sorted({layer.in_features for layer in layers if not skips(layer)})
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
        import torch

        from qtoolkit.kernels import memory_bytes, stored_bytes

        stored_as = config.stored_as
        reason = stored_as.reason_to_skip(layer)
        if not layer.is_reached:
            reason = "a text, which it would be calibrated with, does not run through it"
        if reason:
            return layer.left_alone(reason)
        dtype = getattr(torch, layer.dtype)
        tensors = stored_as.tensors_of(config, layer.out_features, layer.in_features, bits=config.bits, dtype=dtype)
        stored = stored_bytes(tensors)
        # The Hessian and its factor, the weight and its errors in float32, the codes.
        working = 8 * layer.in_features**2 + 9 * layer.num_weights + stored
        packed = memory_bytes(tensors, device=layer.device, reordered=config.desc_act)
        return layer.replaced(packed, disk_bytes=stored, working_bytes=working, bits=config.bits)

    def plan_embedding(self, layer: Layer, config: GPTQ, *, multiplies: bool) -> LayerPlan | None:
        """See `Method`."""
        import torch

        from qtoolkit.kernels import memory_bytes, stored_bytes

        if config.embeddings is None:
            return None
        if layer.in_features % _SMALLEST_GROUP:
            return layer.left_alone(f"its width is no multiple of {_SMALLEST_GROUP}, but {layer.in_features}")
        own = config.for_embeddings(layer.in_features)
        dtype = getattr(torch, layer.dtype)
        tensors = own.stored_as.tensors_of(own, layer.out_features, layer.in_features, bits=own.bits, dtype=dtype)
        stored = stored_bytes(tensors)
        packed = memory_bytes(tensors, device=layer.device) if multiplies else stored
        # The codes, as they are made and as they are packed.
        working = layer.num_weights + stored
        return layer.replaced(packed, disk_bytes=stored, working_bytes=working, bits=own.bits)

    def notes(self, config: GPTQ, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """See `Method`."""
        from qtoolkit.methods.gptq.notes import note_on_few_tokens, notes_on_experts, notes_on_two_bits

        notes = (
            *config.stored_as.notes(config, layers),
            *notes_on_experts(config, layers),
            *note_on_few_tokens(config, layers),
        )
        if config.engine == "optimum":
            others = ("format", "include", "embeddings", "lossy", "shards", "propagate")
            off = ", ".join(name for name in config.absent() if name not in others)
            notes = (f"optimum does not know {off}: these are off", *notes)
        if not config.stored_as.embedding_widths:
            notes = (*notes, "embeddings stay as they are, since the format holds no others")
        return (*notes_on_two_bits(config, layers), *notes)

    def corrected(
        self, weights: "Iterable[Tensor]", inputs: "Hessian", configs: Sequence[GPTQ]
    ) -> "Iterator[list[Tensor]]":
        """See `Method`."""
        from qtoolkit.methods.gptq.alone import quantized_alone

        return quantized_alone(weights, inputs, configs)

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
        workers: "Workers | None" = None,
    ) -> Outcome:
        """See `Method`."""
        from qtoolkit.methods.gptq.calibrated_job import quantize

        return quantize(checkpoint, config, plan, on_progress, journal, workers)


METHOD = GPTQMethod()
