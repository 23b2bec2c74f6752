"""What every method can do. One file in this room is one method: a config, a `Method`, and `METHOD = ...`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from qtoolkit.formats import Layer
from qtoolkit.methods._config import MethodConfig
from qtoolkit.records import CalibrationReport, LayerPlan, OnProgress, PhasePlan, Plan, ignore_progress

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from qtoolkit.models import Checkpoint
    from qtoolkit.noted import Noted
    from qtoolkit.stream import JournalPlace
    from qtoolkit.stream.cost import Work


@dataclass(frozen=True)
class Offer:
    """A config of a method that is worth trying where a model does not fit, or the best is looked for.

    Attributes:
        options: of its config; what is not named is as by default.
        perplexity_ratio: perplexity as a multiple of bfloat16's: SmolLM2-135M, held-out half of WikiText-2 valid
            (benchmarks/README.md); None where it was not measured.
        served_by: the programs that run the result.
        in_one_step: false where a product takes several steps, so that fewer bytes do not make it faster.
    """

    options: Mapping[str, Any]
    perplexity_ratio: float | None
    served_by: str
    in_one_step: bool = True


class Outcome(NamedTuple):
    """What a method made.

    Attributes:
        model: the quantized model, ready to run and to save.
        calibration: what is known of the calibration; None for a method without.
        notes: what was decided, one line each.
    """

    model: "PreTrainedModel"
    calibration: CalibrationReport | None = None
    notes: Sequence[str] = ()


class Method(ABC):
    """One way to make a model small.

    Attributes:
        config_class: its config.
        title: what people call it, in a card; its name where it says nothing else.
        summary: one line for tables and help.
        code_bits: size of a code, where its config has no `bits`.
        requires: optional packages that it needs, keys of `qtoolkit.optional.REQUIREMENTS`.
        offers: its configs that are worth trying without being asked for.
        splits_experts: whether it takes experts apart that transformers keeps in one tensor.
        plans_by_name: whether layers that are alike may have different plans: their names tell.
        also_changes: what it changes beside the layers that it quantizes, for a card: "norms take over scales".
        resumes: whether it keeps what it has done in a journal, and goes on from there.
    """

    config_class: ClassVar[type[MethodConfig]]
    title: ClassVar[str] = ""
    summary: ClassVar[str]
    code_bits: ClassVar[int | None] = None
    requires: ClassVar[tuple[str, ...]] = ()
    offers: ClassVar[tuple[Offer, ...]] = ()
    splits_experts: ClassVar[bool] = False
    plans_by_name: ClassVar[bool] = False
    also_changes: ClassVar[str] = ""
    resumes: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The method's name, which is also its file's."""
        return self.config_class.method

    def resolve(self, config: Any, dtype: str, device: str) -> MethodConfig:
        """Return the config with every "auto" decided for a model of this type on this device; before any work.

        Args:
            config: an instance of `config_class`.
            dtype: what the model is loaded in, "bfloat16".
            device: "cpu" or "cuda:0".
        """
        assert isinstance(config, self.config_class)
        return config

    def fit(self, layers: tuple[Layer, ...], config: Any) -> MethodConfig:
        """Return the config as it fits the layers of a model; `plan_layer` says what changed.

        Raises:
            ConfigError: it fits none; the message names values that would.
        """
        assert isinstance(config, self.config_class)
        return config

    def prepare(self, model: "PreTrainedModel") -> None:
        """What a quantized model needs before its first use, whether just made or read back."""

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """Read back a checkpoint of this method, without `prepare`; notes say what was left out of it.

        Raises:
            CheckpointError: weights are missing, have other shapes, or cannot be read.
            InsufficientMemoryError: memory ran out.
        """
        from qtoolkit.stream import load_streamed

        return load_streamed(checkpoint, None, device=device, on_progress=ignore_progress)

    def notes(self, config: Any, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """What to know of a result of these layers; one line each."""
        return ()

    @abstractmethod
    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        """What this method makes of one linear layer: its bytes afterwards, or why it is skipped.

        Pure: looks at shapes only, so that a plan of a whole model takes no time and reads no weight; asked once for
        all layers that are alike but for their names, unless `plans_by_name`. `config` is the layer's own, as
        `MethodConfig.of` gives it.
        """

    def rounded(self, weight: "Tensor", layer: Layer, config: Any) -> "Tensor":
        """The nearest weight that this method can store: what the sensitivity of a layer is measured with.

        For methods whose config is a `MixedConfig`.

        Args:
            weight: W[out, in] float32, finite.
            layer: its layer.
            config: the layer's own.

        Returns:
            float32 [out, in].
        """
        raise NotImplementedError(f"{self.name} has the same bits for all layers")

    def phases(self, work: "Work", config: Any) -> tuple[PhasePlan, ...]:
        """What the phases take between opening the model and saving the result."""
        from qtoolkit.stream.cost import weight_phases

        return weight_phases(work)

    @abstractmethod
    def quantize(
        self,
        checkpoint: "Checkpoint",
        config: Any,
        plan: Plan,
        on_progress: OnProgress,
        journal: "JournalPlace | None" = None,
    ) -> Outcome:
        """Read the checkpoint's weights and return the quantized model on `plan.device`, ready to run and to save.

        Exactly the layers of `plan.layers` are quantized. A method that `resumes` keeps its work in `journal`, and goes
        on with what it finds there; with None it keeps nothing.
        """
