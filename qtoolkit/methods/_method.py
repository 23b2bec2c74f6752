"""What every method can do. One file in this room is one method: a config, a `Method`, and `METHOD = ...`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from qtoolkit.methods._config import MethodConfig
from qtoolkit.records import CalibrationReport, LayerPlan, OnProgress, PhasePlan, Plan, ignore_progress

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from qtoolkit.methods._work import Work
    from qtoolkit.source import Checkpoint
    from qtoolkit.stream import JournalPlace


@dataclass(frozen=True)
class Layer:
    """A linear layer as a method sees it when it plans: names and shapes, no values.

    Attributes:
        name: full module name.
        out_features, in_features: of its weight W[out_features, in_features], also for GPT-2's transposed Conv1D.
        has_bias: whether it adds a bias [out_features].
        itemsize: bytes of one element of its weight and bias now.
        device: where it will live, "cpu" or "cuda:0".
        in_block: whether it belongs to one of the model's blocks.
    """

    name: str
    out_features: int
    in_features: int
    has_bias: bool
    itemsize: int
    device: str
    in_block: bool = True

    @classmethod
    def of(cls, name: str, module: "nn.Module", device: str, *, in_block: bool = True) -> "Layer":
        """A linear module of a model, full precision, as a layer."""
        from qtoolkit.source.skeleton import linear_shape

        out_features, in_features = linear_shape(module)
        weight: Tensor = module.weight  # type: ignore[assignment]
        has_bias, itemsize = module.bias is not None, weight.element_size()
        return cls(name, out_features, in_features, has_bias, itemsize, device, in_block)

    @property
    def num_weights(self) -> int:
        """Elements of the weight."""
        return self.out_features * self.in_features

    @property
    def bias_bytes(self) -> int:
        """Bytes of the bias, which every method leaves as it is."""
        return self.out_features * self.itemsize * self.has_bias

    def replaced(
        self, weight_bytes: int, *, disk_bytes: int, working_bytes: int, adjusted: str = "", bits: int = 0
    ) -> LayerPlan:
        """The plan of this layer when something else takes its weight's place.

        Args:
            weight_bytes: of all that replaces the weight in memory, scales and tables included.
            disk_bytes: of all that replaces the weight in the file.
            working_bytes: the most that is in use at one time while the layer is quantized, beside the source weight.
            adjusted: what the method changed so that the layer fits.
            bits: size of a code, where a method's layers may differ.
        """
        return LayerPlan(
            name=self.name,
            shape=(self.out_features, self.in_features),
            num_weights=self.num_weights,
            bytes_before=self.num_weights * self.itemsize + self.bias_bytes,
            bytes_after=weight_bytes + self.bias_bytes,
            disk_bytes=disk_bytes + self.bias_bytes,
            adjusted=adjusted,
            bits=bits,
            working_bytes=self.num_weights * self.itemsize + working_bytes,
        )

    def left_alone(self, reason: str) -> LayerPlan:
        """The plan of this layer when it stays as it is, and why."""
        size = self.num_weights * self.itemsize + self.bias_bytes
        return LayerPlan(
            name=self.name,
            shape=(self.out_features, self.in_features),
            num_weights=self.num_weights,
            bytes_before=size,
            bytes_after=size,
            disk_bytes=size,
            skipped=reason,
            working_bytes=size,
        )


class Outcome(NamedTuple):
    """What a method made.

    Attributes:
        model: the quantized model, ready to run and to save.
        calibration: what is known of the calibration; None for a method without.
    """

    model: "PreTrainedModel"
    calibration: CalibrationReport | None = None


class Method(ABC):
    """One way to make a model small.

    Attributes:
        config_class: its config.
        summary: one line for tables and help.
        requires: optional packages that it needs, keys of `qtoolkit.optional.REQUIREMENTS`.
        splits_experts: whether it takes experts apart that transformers keeps in one tensor.
        plans_by_name: whether layers that are alike may have different plans: their names tell.
        resumes: whether it keeps what it has done in a journal, and goes on from there.
    """

    config_class: ClassVar[type[MethodConfig]]
    summary: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    splits_experts: ClassVar[bool] = False
    plans_by_name: ClassVar[bool] = False
    resumes: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The method's name, which is also its file's."""
        return self.config_class.method

    def resolve(self, config: Any, dtype: str, device: str) -> MethodConfig:
        """The config with every "auto" decided for a model of this type on this device; before any work.

        Args:
            config: an instance of `config_class`.
            dtype: what the model is loaded in, "bfloat16".
            device: "cpu" or "cuda:0".
        """
        assert isinstance(config, self.config_class)
        return config

    def fit(self, layers: tuple[Layer, ...], config: Any) -> MethodConfig:
        """The config as it fits the layers of a model; `plan_layer` says what changed.

        Raises:
            ConfigError: it fits none; the message names values that would.
        """
        assert isinstance(config, self.config_class)
        return config

    def prepare(self, model: "PreTrainedModel") -> None:
        """What a quantized model needs before its first use, whether just made or read back."""

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "PreTrainedModel":
        """Read back a checkpoint of this method, without `prepare`.

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
        from qtoolkit.methods._work import weight_phases

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
