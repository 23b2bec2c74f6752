"""Define what every format can do: read its config, plan and load a checkpoint, name the programs that read it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from qtoolkit.errors import ConfigError
from qtoolkit.formats.layer import Layer
from qtoolkit.formats.measured_choices import MeasuredChoices
from qtoolkit.optional import REQUIREMENTS, is_installed
from qtoolkit.records import LayerPlan, PhasePlan

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qtoolkit.checkpoints.safetensors import StoredTensor
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted
    from qtoolkit.stream.cost import JobShape

Values = Mapping[str, Any]


class Layers(Protocol):
    """Build and quantize the layers of a method without calibration, each from its weight alone."""

    def build(self, layer: Layer, dtype: "torch.dtype") -> "nn.Module":
        """Build the module that replaces a linear layer; its tensors are buffers with unset values."""

    def quantize_weight(self, weight: "torch.Tensor", layer: Layer) -> "dict[str, torch.Tensor]":
        """Return the buffers of `build` that store W[out_features, in_features], by name."""


LayersOf = Callable[[str, Values], Layers]


class Sizes(NamedTuple):
    """The bytes of a result.

    Attributes:
        memory: of its tensors in memory.
        disk: of its weight files.
    """

    memory: int
    disk: int


class Planner(MeasuredChoices, ABC):
    """Plan the layers of a model from shapes, and load it: a method, or the reader of a quantized checkpoint.

    Attributes:
        requires: optional packages that it needs, keys of `qtoolkit.optional.REQUIREMENTS`.
        splits_experts: whether it splits experts that transformers keeps in one tensor.
        leaves_experts_apart: whether experts that it leaves are stored as layers, where its format's readers look for
            layers alone.
        takes_called_when_marked: whether it takes layers that modules call only where transformers has marked the
            config as that of a quantized model, or whose weight's type they ask for before they call them; other
            programs read their weights, and other layers have none.
        plans_by_name: whether layers of equal shape may have different plans, by their names.
        writes_file: whether a job writes the result as a file of another program, and holds no model in memory.
    """

    requires: tuple[str, ...] = ()
    splits_experts: bool = False
    leaves_experts_apart: bool = False
    takes_called_when_marked: bool = False
    plans_by_name: bool = False
    writes_file: bool = False

    def resolve(self, config: Any, dtype: str, device: str) -> Any:
        """Return the config with every "auto" decided for a model of this type on this device.

        Called before any work. Default: the config unchanged.

        Args:
            config: the method's.
            dtype: the type that the model is loaded in, "bfloat16".
            device: "cpu" or "cuda:0".
        """
        return config

    def fit(self, layers: tuple[Layer, ...], config: Any) -> Any:
        """Return the config adapted to the layers of a model; `plan_layer` reports what changed for a layer.

        Default: the config unchanged.

        Raises:
            ConfigError: the config fits no layer; the message names values that would.
        """
        return config

    @abstractmethod
    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        """Return the plan of one linear layer: its bytes in memory and in the file, or why it is not quantized.

        Pure: it looks at shapes only, so that a plan of a whole model takes no time and reads no weight. Called once
        for all layers that differ in nothing but their names, unless `plans_by_name`.

        Args:
            layer: name, shape and device.
            config: the layer's own, of `MethodConfig.of`.
        """

    def plan_embedding(self, layer: Layer, config: Any, *, multiplies: bool) -> LayerPlan | None:
        """Return the plan of the token embedding, or of an output head of its own; None where they stay as they are.

        Called after `fit`. Default: None.

        Args:
            layer: name, shape and device; the tokens are its outputs.
            config: the method's.
            multiplies: whether the weight is multiplied with, as an output head or as one that it is tied to.
        """
        return None

    def sizes(self, layers: Sizes) -> Sizes:
        """Return the bytes of the result. Default: those of its modules.

        Args:
            layers: the sums of all modules' plans, with the model's buffers.
        """
        return layers

    @abstractmethod
    def phases(self, job: "JobShape", config: Any) -> tuple[PhasePlan, ...]:
        """Return memory, disk and time of each phase between opening the model and saving the result."""

    @abstractmethod
    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """Build the model of a quantized checkpoint on a device, "cpu" or "cuda:0", without `prepare`.

        Notes say what was left out of it.

        Raises:
            CheckpointError: weights are missing, have other shapes, or cannot be read.
            InsufficientMemoryError: memory ran out.
        """

    def prepare(self, model: "PreTrainedModel") -> None:
        """Prepare a quantized model, just quantized or read back, for its first use. Default: do nothing."""

    def settings(self, config: Any) -> dict[str, Any]:
        """Return what a plan shows of a config, as JSON-ready values. Default: all its fields."""
        return config.to_dict()  # type: ignore[no-any-return]

    def notes(self, config: Any, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """Return warnings about a result with these layers, one line each. Default: none."""
        return ()


class Reader(Planner):
    """Plan and load one quantized checkpoint; the file decides what a method decides otherwise.

    Attributes:
        name: the method that chooses such codes.
        bits: size of a code by the names of the quantized layers.
    """

    name: str
    plans_by_name = True
    bits: Mapping[str, int]

    def phases(self, job: "JobShape", config: Any) -> tuple[PhasePlan, ...]:
        """See `Planner`: one phase, which reads the checkpoint."""
        from qtoolkit.stream.cost import loading_phase

        return (loading_phase(job),)


class Format(ABC):
    """One layout of a quantized checkpoint: how it is stored, read and described.

    Attributes:
        name: its name in configs and in the registry.
        quant_method: its name in `config.json`.
        packages: what transformers itself needs to read it, keys of `qtoolkit.optional.REQUIREMENTS`; None where
            transformers reads it only once qtoolkit is imported.
        reads_itself: whether transformers reads it with qtoolkit imported even where `packages` are missing.
        experts_alone: whether transformers reads experts of it, each a layer, without qtoolkit.
        side_file_names: the names of the files of `side_files`, which are downloaded with a model of the Hub.
        tag: the tag of its models on the Hub; empty for the method's name.
        library: the library by which the Hub's page says to load them; empty for transformers or qtoolkit.
        layer_suffixes: endings of tensor names of which each quantized layer has exactly one; empty for unknown.
    """

    name: ClassVar[str]
    quant_method: ClassVar[str]
    layer_suffixes: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...] | None] = None
    reads_itself: ClassVar[bool] = False
    experts_alone: ClassVar[bool] = True
    side_file_names: ClassVar[tuple[str, ...]] = ()
    tag: ClassVar[str] = ""
    library: ClassVar[str] = ""

    def describes(self, values: Values) -> bool:
        """Check whether a checkpoint is of this format. Default: `quant_method` says so.

        Args:
            values: its `quantization_config`.
        """
        return values.get("quant_method") == self.quant_method

    @abstractmethod
    def method_of(self, values: Values) -> tuple[str, Values]:
        """Return the name of the method that chooses such codes, and its options as far as `values` contain them.

        Args:
            values: the `quantization_config` of a checkpoint.

        Raises:
            CheckpointError, UnsupportedModelError: an impossible value, or one that is not supported here.
        """

    def corrected(self, checkpoint: "Checkpoint") -> "Checkpoint":
        """Return a checkpoint of this format with wrong values of its config corrected, and a note for each.

        Raises:
            CheckpointError, UnsupportedModelError: it is damaged, or not read here.
        """
        return checkpoint

    def reader(self, checkpoint: "Checkpoint") -> Reader | None:
        """Return what plans and loads this checkpoint; None where its method plans again the layers that it quantized.

        Raises:
            CheckpointError, UnsupportedModelError: the checkpoint is damaged, or not supported here.
        """
        return None

    def structure(
        self, tensors: "Mapping[str, StoredTensor | torch.Tensor]"
    ) -> "Mapping[str, StoredTensor | torch.Tensor]":
        """Return what stands for the tensors of a checkpoint whose names and shapes alone are read, on the meta device.

        Default: the tensors, whose values its reader checks.
        """
        return tensors

    def quantization_config(self, method: str, options: Values, layers: Sequence[str]) -> Any:
        """Return transformers' quantization config for a model whose layers a method quantizes each from its weight.

        Args:
            method: the method's name.
            options: fields of its config.
            layers: full names of the modules to quantize.

        Raises:
            ConfigError: the format cannot store such layers.
        """
        raise ConfigError(f"format {self.name!r} does not hold the layers of method {method!r}: name another format")

    def side_files(self, values: Values) -> Mapping[str, str]:
        """Return the files that readers need beside weights and `config.json`: texts by name. Default: none."""
        return {}

    def problems(self, folder: Path, values: Values) -> Sequence[str]:
        """Return what readers of a saved folder would misread, a line each. Default: nothing."""
        return ()

    def num_layers(self, values: Values, names: Iterable[str]) -> int | None:
        """Count the quantized layers of a checkpoint, which its receipt is compared with; None where that is not known.

        Args:
            values: its `quantization_config`, which anybody may have written.
            names: of its tensors.
        """
        return sum(name.endswith(self.layer_suffixes) for name in names) if self.layer_suffixes else None

    def layer_bits(self, values: Values, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, int]:
        """Return the bits of the quantized layers by their names in the file; empty where these are not known.

        Args:
            values: the `quantization_config`, which anybody may have written.
            shapes: of the tensors in the file, by name.
        """
        return {}

    def layer_shapes(self, values: Values, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, int]]:
        """Return [outputs, inputs] of the quantized layers by their names in the file; empty where they are not known.

        Args:
            values: the `quantization_config`, which anybody may have written.
            shapes: of the tensors in the file, by name.
        """
        return {}

    def needs_qtoolkit(self, options: Values) -> bool:
        """Check whether transformers reads such a model only once qtoolkit is imported.

        Args:
            options: fields of the config that it was quantized with.
        """
        return self.packages is None

    def reads_alone(self, values: Values) -> bool:
        """Check whether transformers reads a checkpoint with `packages` alone, without qtoolkit. Default: it does.

        Args:
            values: its `quantization_config`.
        """
        return True

    def note_on_shapes(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Return a line on layers that transformers with `packages` alone does not run right everywhere. Default: none.

        Args:
            shapes: [outputs, inputs] of the quantized layers, by name.
        """
        return ""

    def readers(self, options: Values) -> str:
        """Return a sentence for the model card: what the reader contract does not say of its readers. Default: none."""
        return ""

    def missing_packages(self) -> tuple[str, ...]:
        """Return the packages that transformers itself needs and that are not installed here, as pip names them."""
        return tuple(REQUIREMENTS[package] for package in self.packages or () if not is_installed(package))

    def quiet(self) -> AbstractContextManager[None]:
        """Return a context in which its layers do not repeat log lines. Default: one without effect."""
        return nullcontext()

    def register(self, layers_of: LayersOf) -> None:
        """Let transformers read it; calling it again changes nothing. Default: transformers reads it by itself.

        Args:
            layers_of: returns what builds the layers of a method, from the name and options in the config.
        """


def is_uneven(options: Values) -> bool:
    """Check whether the fields of a method's config give layers different bits."""
    bits = options.get("bits")
    return any(values.get("bits", bits) != bits for values in (options.get("rules") or {}).values())
