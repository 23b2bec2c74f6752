"""What every format can do: read its entry in `config.json`, plan and load a checkpoint, and say who else reads it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qtoolkit.errors import ConfigError
from qtoolkit.formats.layer import Layer
from qtoolkit.optional import REQUIREMENTS, is_installed
from qtoolkit.records import LayerPlan, PhasePlan

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qtoolkit.models import Checkpoint
    from qtoolkit.noted import Noted
    from qtoolkit.stream.cost import Work

Values = Mapping[str, Any]


class Layers(Protocol):
    """The layers that a method without calibration makes, each from its weight alone."""

    def build(self, layer: Layer, dtype: "torch.dtype") -> "nn.Module":
        """The layer that takes the place of one, without values: buffers."""

    def quantize_weight(self, weight: "torch.Tensor", layer: Layer) -> "dict[str, torch.Tensor]":
        """The buffers of `build` that stand for W[out_features, in_features], by name."""


LayersOf = Callable[[str, Values], Layers]


class Reader(ABC):
    """One checkpoint that is quantized, as it is planned and loaded; the file decides what a method would.

    Attributes:
        name: of the method that makes such codes.
        requires: optional packages that reading needs, keys of `qtoolkit.optional.REQUIREMENTS`.
        splits_experts: whether it takes experts apart that transformers keeps in one tensor.
        plans_by_name: whether layers of one shape may have plans that differ.
        bits: size of a code, by the names of the layers that are quantized.
    """

    name: str
    requires: tuple[str, ...] = ()
    splits_experts: bool = False
    plans_by_name: bool = True
    bits: Mapping[str, int]

    @abstractmethod
    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        """The bytes of one linear layer in memory and in the file, or why it is not quantized."""

    @abstractmethod
    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """Build the model on a device; notes say what was left out of it.

        Raises:
            CheckpointError: weights are missing, have other shapes, or cannot be read.
            InsufficientMemoryError: memory ran out.
        """

    def resolve(self, config: Any, dtype: str, device: str) -> Any:
        """Return the config as it is: nothing is left to decide."""
        return config

    def fit(self, layers: tuple[Layer, ...], config: Any) -> Any:
        """Return the config as it is."""
        return config

    def phases(self, work: "Work", config: Any) -> tuple[PhasePlan, ...]:
        """What reading takes."""
        from qtoolkit.stream.cost import reading_phase

        layouts = max((layer.bytes_after for layer in work.layers), default=0)
        return (reading_phase(work, "load", "a layer in two layouts", layouts),)

    def notes(self, config: Any, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """None: it was made already."""
        return ()

    def prepare(self, model: "PreTrainedModel") -> None:
        """Nothing: it is ready once it is loaded."""


class Format(ABC):
    """One layout of a quantized checkpoint.

    Attributes:
        name: by which configs and the registry know it.
        quant_method: by which `config.json` names it.
        packages: what transformers itself needs to read it, keys of `qtoolkit.optional.REQUIREMENTS`; None where it
            reads it only once qtoolkit is imported.
        reads_itself: whether qtoolkit reads it in transformers where `packages` are missing.
        side_file_names: the files of `side_files` by name, which are downloaded with a model of the Hub.
        tag: what the Hub's pages filter by; empty for the method's name.
        layer_suffixes: how the names of tensors end of which each quantized layer has one; empty where none is known.
    """

    name: ClassVar[str]
    quant_method: ClassVar[str]
    layer_suffixes: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...] | None] = None
    reads_itself: ClassVar[bool] = False
    side_file_names: ClassVar[tuple[str, ...]] = ()
    tag: ClassVar[str] = ""

    @abstractmethod
    def method_of(self, values: Values) -> tuple[str, Values]:
        """The method that makes such codes, and its options as far as the `quantization_config` tells.

        Raises:
            CheckpointError, UnsupportedModelError: what it tells cannot be, or is not read here.
        """

    def corrected(self, checkpoint: "Checkpoint") -> "Checkpoint":
        """Return a checkpoint of this format with what its config tells wrongly put right, and noted.

        Raises:
            CheckpointError, UnsupportedModelError: it is damaged, or not read here.
        """
        return checkpoint

    def reader(self, checkpoint: "Checkpoint") -> Reader | None:
        """How this checkpoint is planned and loaded; None where its method plans the same layers as it made.

        Raises:
            CheckpointError, UnsupportedModelError: it is damaged, or not read here.
        """
        return None

    def quantization_config(self, method: str, options: Values, layers: Sequence[str]) -> Any:
        """What transformers calls by this name, for a model whose layers a method makes each from its weight alone.

        Args:
            method: the method's name.
            options: its config's fields.
            layers: full names of the modules that are quantized.

        Raises:
            ConfigError: the format does not hold such layers.
        """
        raise ConfigError(f"format {self.name!r} does not hold the layers of method {method!r}: name another format")

    def side_files(self, values: Values) -> Mapping[str, str]:
        """Files that its readers look for beside weights and `config.json`: texts by name."""
        return {}

    def problems(self, folder: Path, values: Values) -> Sequence[str]:
        """What of a saved folder readers would take wrongly, a line each."""
        return ()

    def num_layers(self, values: Values, names: Iterable[str]) -> int | None:
        """Count the quantized layers of a checkpoint, which its receipt is compared with; None where that is not known.

        Args:
            values: its `quantization_config`, which anybody may have written.
            names: of its tensors.
        """
        return sum(name.endswith(self.layer_suffixes) for name in names) if self.layer_suffixes else None

    def needs_qtoolkit(self, settings: Values) -> bool:
        """Whether transformers reads such a model only once qtoolkit is imported.

        Args:
            settings: of the method that made it.
        """
        return self.packages is None

    def readers(self, settings: Values) -> str:
        """Which other programs read it, in a sentence or two for its card."""
        return "Which other programs read it is not known."

    def missing_packages(self) -> tuple[str, ...]:
        """What transformers itself would need and is not installed here, as pip names it."""
        return tuple(REQUIREMENTS[package] for package in self.packages or () if not is_installed(package))

    def quiet(self) -> AbstractContextManager[None]:
        """Its layers without what they log again and again."""
        return nullcontext()

    def register(self, layers_of: LayersOf) -> None:
        """Let transformers read it; once is enough, more does no harm.

        Args:
            layers_of: gives the layers of a method by its name and options, for a format whose files tell those.
        """


class LayersFormat(Format):
    """Base of the formats whose `quantization_config` tells the method, its options, and which layers are quantized.

    Those layers are built by their method, in transformers' own loader too. Example of what `config.json` says:
    `{"quant_method": "qtoolkit", "method": "absmax", "options": {"bits": 8}, "layers": ["lm_head"]}`.
    """

    def method_of(self, values: Values) -> tuple[str, Values]:
        """See `Format`."""
        return values["method"], values["options"]

    def num_layers(self, values: Values, names: Iterable[str]) -> int | None:
        """See `Format`."""
        layers = values.get("layers")
        return len(layers) if isinstance(layers, list) else None

    def quantization_config(self, method: str, options: Values, layers: Sequence[str]) -> Any:
        """See `Format`."""
        from qtoolkit.formats.loader import LayersConfig

        return LayersConfig(method, dict(options), list(layers), quant_method=self.quant_method)

    def register(self, layers_of: LayersOf) -> None:
        """See `Format`."""
        from qtoolkit.formats.loader import register

        register(self.quant_method, layers_of)


def is_uneven(settings: Values) -> bool:
    """Whether a method's options give layers different bits."""
    usual = settings.get("bits")
    return any(values.get("bits", usual) != usual for values in (settings.get("rules") or {}).values())
