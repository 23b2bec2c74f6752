"""Define what a format of integer codes in groups can do for every method that chooses such codes."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from qtoolkit.errors import ConfigError
from qtoolkit.formats.base import Format, Layers, Values
from qtoolkit.formats.layer import Layer
from qtoolkit.records import LayerPlan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qtoolkit.formats.layer_codes import LayerCodes
    from qtoolkit.formats.recoding import RecodedTensors
    from qtoolkit.formats.stored_layer import GroupedTensors, RowTensors
    from qtoolkit.kernels import Codes, StoredTensors
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted


@dataclass(frozen=True)
class Grid:
    """How the codes of one layer are spaced: what a format needs to know of a method's config, without its name.

    Attributes:
        bits: size of a code.
        group_size: inputs that share a scale, -1 for all of them.
        sym: whether zero points lie in the middle of the codes, and none are stored.
        order: "activation" where columns were done in that order, "natural" otherwise.
        kind: "int", or "float" for float8 e4m3fn.
        block: outputs and inputs that share a scale; None where no blocks do.
        in_bytes: whether codes take a byte each, for programs that round inputs to 8 bits too and multiply so.
    """

    bits: int
    group_size: int
    sym: bool
    order: str = "natural"
    kind: str = "int"
    block: tuple[int, int] | None = None
    in_bytes: bool = False


def base_grid(grids: Mapping[str, Grid], embeddings: Mapping[str, Grid]) -> Grid:
    """Return the grid that most layers have; that of the embeddings where these alone are quantized."""
    ((base, _),) = Counter(grids.values() or embeddings.values()).most_common(1)
    return base


@dataclass(frozen=True, kw_only=True)
class RecodedLayers:
    """The layers of a checkpoint whose codes another format takes over.

    Attributes:
        base: the grid of most layers.
        grids: of the quantized layers by their full names in the file.
        embeddings: of the token embedding and of the output head, where the former is quantized, by their full names in
            the file, or in the model for a head that is tied.
        left: full names of the matrices in the blocks that are not quantized.
        outside: full names of the linear layers outside the blocks that are not quantized, in the file and the model.
        whole: whether each quantized layer has one group of all its inputs, embeddings aside.
        options: fields of the config of the method that chose the codes.
        origin: that method's name and options for the format's file, where the file is to tell them; None otherwise.
    """

    base: Grid
    grids: Mapping[str, Grid]
    embeddings: Mapping[str, Grid]
    left: tuple[str, ...]
    outside: tuple[str, ...]
    whole: bool
    options: Mapping[str, Any]
    origin: Values | None = None

    def without_sizes(self) -> "RecodedLayers":
        """Return the same with groups of -1 where each layer has one group, for formats that say so."""
        if not self.whole:
            return self
        grids = {name: replace(grid, group_size=-1) for name, grid in self.grids.items()}
        return replace(self, base=replace(self.base, group_size=-1), grids=grids)


# A layer's name, how its weight is stored, and what returns a tensor of it by the name that the tensor has there.
StoredValues = tuple[str, "StoredTensors", Callable[[str], "torch.Tensor"]]

# Why a format does not hold codes whose groups are not runs of inputs.
OUT_OF_ORDER = "groups in order of activation, or of different sizes"


class GroupedFormat(Format):
    """Base of the formats whose codes are integers in groups: w = (code - zero_point) * scale.

    A method asks it for the tensors of each layer, for the config of the result, and to load that. `config` is the
    method's: it has `bits`, `group_size` (-1 for all inputs) and `sym`, and whatever other options the format knows.

    Attributes:
        widths: the sizes of a code that it holds, in bits.
        embedding_widths: those that it holds for embeddings and output heads; empty where it holds none.
        group_sizes: the inputs that may share a scale; empty for any from 32 on, and for all of an output.
        layouts: its ways to pack codes by the names that a conversion asks for; empty where its own name is enough.
        rounds_minima: whether it stores the minimum of a group, rounded, in place of a zero point, so that asymmetric
            codes are written on request alone.
        blocks_alone: whether its readers look for quantized layers in the blocks of a model alone.
    """

    widths: ClassVar[tuple[int, ...]]
    embedding_widths: ClassVar[tuple[int, ...]] = ()
    group_sizes: ClassVar[tuple[int, ...]] = ()
    layouts: ClassVar[tuple[str, ...]] = ()
    rounds_minima: ClassVar[bool] = False
    blocks_alone: ClassVar[bool] = False

    def check(self, config: Any) -> None:
        """Refuse a config whose codes it does not hold, apart from `widths`. Default: accept all.

        Raises:
            ConfigError: an option that it does not hold; the message names a format that does.
        """

    def refuse_other_layouts(self, config: Any, why_in_order: str) -> None:
        """Refuse options that the format "gptq" alone has: groups in another order, and its layouts.

        Args:
            config: the method's.
            why_in_order: what keeps groups in the order of the inputs: "whose readers gave it up".

        Raises:
            ConfigError: it has one of these options.
        """
        name = type(config).__name__
        if getattr(config, "desc_act", False):
            raise ConfigError(
                f"{name}: desc_act=True is not written as {self.name}, {why_in_order}: "
                "leave it out, or give format='gptq'"
            )
        if getattr(config, "checkpoint_format", "gptq") != "gptq":
            raise ConfigError(
                f"{name}: checkpoint_format={config.checkpoint_format!r} is no option of format {self.name!r}: "
                "leave it out, or give format='gptq'"
            )

    @abstractmethod
    def reason_to_skip(self, layer: Layer) -> str:
        """Return why a layer cannot be stored; empty where it can."""

    @abstractmethod
    def tensors_of(
        self, config: Any, out_features: int, in_features: int, *, bits: int, dtype: "torch.dtype"
    ) -> "GroupedTensors":
        """Return how the weight W[out_features, in_features] of a layer is stored.

        Args:
            config: the method's, fitted: its groups divide the inputs.
            out_features, in_features: of the weight.
            bits: size of a code.
            dtype: type of the weight in full precision.
        """

    def byte_tensors_of(self, grid: Grid, out_features: int, in_features: int, *, dtype: "torch.dtype") -> "RowTensors":
        """Return how a weight is stored whose codes take a byte each, so that programs multiply in 8 bits.

        Args:
            grid: how the codes are spaced.
            out_features, in_features: of the weight.
            dtype: type of the weight in full precision.

        Raises:
            ConfigError: the format holds no such layers.
        """
        raise ConfigError(f"format {self.name!r} holds no layers that are multiplied in 8 bits: name another format")

    @abstractmethod
    def codes_of(self, config: Any, tensors: Mapping[str, "torch.Tensor"]) -> "Codes":
        """Return the codes in the tensors of one layer that `tensors_of` described."""

    @abstractmethod
    def describe(
        self,
        config: Any,
        quantized: Mapping[str, int],
        left: Iterable[str],
        outside: Iterable[str],
        embeddings: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the `quantization_config` of a result.

        Args:
            config: the method's.
            quantized: bits of the quantized layers by their full names in the file.
            left: full names of the matrices in the blocks that are not quantized.
            outside: full names of the linear layers outside the blocks that are not quantized.
            embeddings: the config of the token embedding and of the output head, by their full names in the file, or
                in the model for a head that is tied; empty where these are not quantized.
        """

    @abstractmethod
    def load(self, checkpoint: "Checkpoint", values: Values, *, device: str) -> "Noted[PreTrainedModel]":
        """Build the model of a quantized checkpoint on `device`, ready to run and to save.

        Args:
            checkpoint: the model, whose tensors are those of the file.
            values: the `quantization_config`, which becomes that of the model unchanged.
            device: "cpu" or "cuda:0".

        Raises:
            CheckpointError, UnsupportedModelError: the tensors do not fit the model or the config.
        """

    def rounding_config(
        self,
        layers: Layers,
        names: Iterable[str],
        grids: Mapping[str, Grid],
        ignored: Iterable[str],
        origin: Values,
        embeddings: Mapping[str, Grid],
    ) -> Any:
        """Return transformers' quantization config that quantizes each layer from its weight alone, as it is read.

        Args:
            layers: builds and quantizes the layers of a method.
            names: full names of the modules to quantize.
            grids: of these layers, by their full names in the file, without those of `embeddings`.
            ignored: full names in the file of all other linear layers.
            origin: the method's name as `method`, and the fields of its config as `options`, kept in the file.
            embeddings: the grid of the token embedding and of the output head, as in `describe`.

        Raises:
            ConfigError: the format holds no layers that are rounded so.
        """
        raise ConfigError(f"format {self.name!r} holds no layers that are rounded one by one: name another format")

    def layout_of(self, values: Values) -> str:
        """Return how a checkpoint with this `quantization_config` packs codes, as `layouts` call it.

        Default: the format's name.

        Raises:
            CheckpointError, UnsupportedModelError: a value that no such checkpoint can have, or one not read here.
        """
        return self.name

    def reason_against(self, codes: "LayerCodes", layout: str) -> str:
        """Return what about a layer's codes it cannot store unchanged, "groups of 16 inputs"; empty where it can.

        Args:
            codes: as another format stores them; zero points that become rounded minima are no reason.
            layout: one of `layouts`, or its name.
        """
        return "codes of another format"

    def recoded(self, codes: "LayerCodes", layout: str, scale_dtype: "torch.dtype") -> "RecodedTensors":
        """Return how it stores a layer's codes, which it holds; `scale_dtype` holds their scales.

        Raises:
            ConfigError: it takes over no codes.
        """
        raise ConfigError(f"format {self.name!r} takes over no codes: name another format")

    def holds_scales(self, codes: "LayerCodes", dtype: "torch.dtype") -> bool:
        """Check whether the scales of a layer's codes are stored exactly in a type. Default: whether they are exact."""
        return dtype in codes.scale_dtypes

    def scale_dtype_of(self, dtype: "torch.dtype") -> "torch.dtype":
        """Return the usual type of the scales of a model of this type. Default: that type, of float64 float32."""
        import torch

        return torch.float32 if dtype == torch.float64 else dtype

    def describe_recoded(self, layers: RecodedLayers, layout: str) -> dict[str, Any]:
        """Return the `quantization_config` of layers that are stored as `recoded` says.

        Raises:
            ConfigError: it takes over no codes, or cannot describe these layers together.
        """
        raise ConfigError(f"format {self.name!r} takes over no codes: name another format")

    def config_entries(self, values: Values) -> dict[str, Any]:
        """Return the entries of `config.json` that hold a `quantization_config`. Default: that one alone."""
        return {"quantization_config": dict(values)}

    def notes(self, config: Any, layers: Iterable[LayerPlan]) -> tuple[str, ...]:
        """Return warnings about a result with these layers, one line each. Default: none."""
        return ()

    def measured_notes(self, model: "PreTrainedModel") -> tuple[str, ...]:
        """Return what storing the codes has changed in a quantized model, one line each."""
        from qtoolkit.kernels import QuantizedLinear

        modules = model.named_modules()
        layers = ((name, module) for name, module in modules if isinstance(module, QuantizedLinear))
        return self.changes((name, layer.stored, layer.get_buffer) for name, layer in layers)

    def changes(self, layers: Iterable[StoredValues]) -> tuple[str, ...]:
        """Return what storing the codes of these layers has changed, one line each. Default: nothing."""
        return ()
