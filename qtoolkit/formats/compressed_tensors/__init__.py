"""The format compressed-tensors, as vLLM, SGLang and transformers read it: packed codes, and int8 or float8."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError
from qtoolkit.formats.base import Layers, LayersOf
from qtoolkit.formats.grouped import OUT_OF_ORDER, Grid, GroupedFormat, RecodedLayers, base_grid
from qtoolkit.formats.layer import Layer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qtoolkit.formats.base import Reader
    from qtoolkit.formats.compressed_tensors.byte_tensors import ByteTensors
    from qtoolkit.formats.compressed_tensors.tensors import PackedTensors
    from qtoolkit.formats.layer_codes import LayerCodes
    from qtoolkit.kernels import Codes
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted

__all__ = ["FORMAT"]

QUANT_METHOD = "compressed-tensors"
PACKAGE = "compressed_tensors"
# The only one of the package's formats that holds codes of less than 8 bits in integers.
PACKED = "pack-quantized"
# Those whose codes take a byte each, by the `type` of their schemes, and an older name of both.
BYTES = {"int": "int-quantized", "float": "float-quantized"}
NAIVE = "naive-quantized"
# Of a config whose schemes each name their own.
MIXED = "mixed-precision"
WIDTHS = (2, 3, 4, 5, 6, 7, 8)


class CompressedTensorsFormat(GroupedFormat):
    """Store, read and describe compressed-tensors checkpoints."""

    name = quant_method = tag = QUANT_METHOD
    packages = (PACKAGE,)
    reads_itself = True
    layer_suffixes = (".weight_scale",)
    widths = WIDTHS
    # vLLM looks up rows of whole words only.
    embedding_widths = (4, 8)

    def method_of(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """See `Format`."""
        from qtoolkit.formats.compressed_tensors.config import method_of, origin_of

        return origin_of(values) or method_of(values)

    def reader(self, checkpoint: "Checkpoint") -> "Reader":
        """See `Format`."""
        from qtoolkit.formats.compressed_tensors.reader import PackedReader

        return PackedReader(checkpoint)

    def problems(self, folder: Path, values: Mapping[str, Any]) -> Sequence[str]:
        """See `Format`."""
        from qtoolkit.formats.compressed_tensors.packed_layers import problems_of

        return problems_of(folder, values)

    def check(self, config: Any) -> None:
        """See `GroupedFormat`: groups are those of the inputs in order, and zero points are stored as they are."""
        self.refuse_other_layouts(config, "whose readers gave it up")

    def reason_to_skip(self, layer: Layer) -> str:
        """See `GroupedFormat`."""
        if not layer.in_block:
            return "outside the blocks, which alone are calibrated"
        if layer.transposed:
            return "a Conv1D, which the format's readers do not take: format gptq holds it"
        if layer.in_features % 32:
            return f"its inputs are no multiple of 32, the smallest group, but {layer.in_features}"
        return ""

    def tensors_of(
        self, config: Any, out_features: int, in_features: int, *, bits: int, dtype: "torch.dtype"
    ) -> "PackedTensors":
        """See `GroupedFormat`: scales have the model's type; of a float64 model float32."""
        from qtoolkit.formats.compressed_tensors.tensors import PackedTensors

        return PackedTensors(
            out_features,
            in_features,
            bits=bits,
            group_size=config.group_size,
            symmetric=config.sym,
            scale_dtype=self.scale_dtype_of(dtype),
        )

    def byte_tensors_of(
        self, grid: Grid, out_features: int, in_features: int, *, dtype: "torch.dtype"
    ) -> "ByteTensors":
        """See `GroupedFormat`."""
        from qtoolkit.formats.compressed_tensors.byte_tensors import ByteTensors

        return ByteTensors(
            out_features,
            in_features,
            kind=grid.kind,
            block=grid.block,
            scale_dtype=self.scale_dtype_of(dtype),
        )

    def codes_of(self, config: Any, tensors: Mapping[str, "torch.Tensor"]) -> "Codes":
        """See `GroupedFormat`."""
        out_features, in_features = tensors["weight_shape"].tolist()
        # Whole words: inputs are multiples of 32.
        bits = 32 * tensors["weight_packed"].shape[1] // in_features
        dtype = tensors["weight_scale"].dtype
        return self.tensors_of(config, out_features, in_features, bits=bits, dtype=dtype).decode(tensors)

    def describe(
        self,
        config: Any,
        quantized: Mapping[str, int],
        left: Iterable[str],
        outside: Iterable[str],
        embeddings: Mapping[str, Any],
    ) -> dict[str, Any]:
        """See `GroupedFormat`."""
        from qtoolkit.formats.compressed_tensors.config import describe

        base = Grid(config.bits, config.group_size, config.sym, config.order)
        grids = {name: replace(base, bits=bits) for name, bits in quantized.items()}
        return describe(base, grids, [*left, *outside], embeddings)

    def layout_of(self, values: Mapping[str, Any]) -> str:
        """See `GroupedFormat`: codes of a byte each are another layout than packed ones."""
        from qtoolkit.formats.compressed_tensors.config import read_schemes

        first = read_schemes(values).schemes[0]
        return BYTES[first.kind] if first.in_bytes else self.name

    def reason_against(self, codes: "LayerCodes", layout: str) -> str:
        """See `GroupedFormat`: groups are those of the inputs in order."""
        if codes.transposed:
            return "a Conv1D"
        if codes.bits not in (self.embedding_widths if codes.place == "embedding" else self.widths):
            return f"{'embeddings' if codes.place == 'embedding' else 'codes'} of {codes.bits} bits"
        if not codes.in_order:
            return OUT_OF_ORDER
        too_large = codes.largest_zero >= 2**codes.bits
        return f"zero points of {codes.largest_zero} with {codes.bits} bits" if too_large else ""

    def recoded(self, codes: "LayerCodes", layout: str, scale_dtype: "torch.dtype") -> "PackedTensors":
        """See `GroupedFormat`."""
        from qtoolkit.formats.compressed_tensors.tensors import PackedTensors

        return PackedTensors(
            *codes.shape,
            bits=codes.bits,
            group_size=codes.inputs_per_scale,
            symmetric=codes.sym,
            scale_dtype=scale_dtype,
        )

    def describe_recoded(self, layers: RecodedLayers, layout: str) -> dict[str, Any]:
        """See `GroupedFormat`."""
        from qtoolkit.formats.compressed_tensors.config import describe

        if len(set(layers.embeddings.values())) > 1:
            raise ConfigError(f"format {self.name!r} holds embedding and output head in one way alone")
        layers = layers.without_sizes()
        ignored = [*layers.left, *layers.outside]
        return describe(layers.base, layers.grids, ignored, layers.embeddings, layers.origin)

    def rounding_config(
        self,
        layers: Layers,
        names: Iterable[str],
        grids: Mapping[str, Grid],
        ignored: Iterable[str],
        origin: Mapping[str, Any],
        embeddings: Mapping[str, Grid],
    ) -> Any:
        """See `GroupedFormat`."""
        from qtoolkit.formats.compressed_tensors.config import describe
        from qtoolkit.formats.compressed_tensors.loader import CompressedTensorsConfig, register
        from qtoolkit.formats.rounding_loader import RoundingConfig, register_rounding

        register()
        register_rounding()
        values = describe(base_grid(grids, embeddings), grids, ignored, embeddings, origin)
        return RoundingConfig(CompressedTensorsConfig, values, layers, names)

    def load(self, checkpoint: "Checkpoint", values: Mapping[str, Any], *, device: str) -> "Noted[PreTrainedModel]":
        """See `GroupedFormat`."""
        from qtoolkit.formats.compressed_tensors.reader import load_packed

        return load_packed(checkpoint, values, device=device)

    def layer_bits(self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, int]:
        """See `Format`."""
        from qtoolkit.formats.compressed_tensors.config import bits_by_scheme

        return bits_by_scheme(values, (name for name in shapes if name.endswith(self.layer_suffixes)))

    def layer_shapes(
        self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> Mapping[str, tuple[int, int]]:
        """See `Format`: codes are stored as [outputs, inputs * bits / 32], or as [outputs, inputs] in bytes."""
        found = {}
        for name, bits in self.layer_bits(values, shapes).items():
            words = shapes.get(f"{name}.weight_packed", ())
            stored = (words[0], 32 * words[1] // bits) if len(words) == 2 else shapes.get(f"{name}.weight", ())
            if len(stored) == 2:
                found[name] = (stored[0], stored[1])
        return found

    def reads_alone(self, values: Mapping[str, Any]) -> bool:
        """See `Format`."""
        from qtoolkit.formats.compressed_tensors.config import has_embeddings

        return not has_embeddings(values)

    def needs_qtoolkit(self, options: Mapping[str, Any]) -> bool:
        """See `Format`: transformers 5.23 fails at quantized embeddings."""
        return options.get("embeddings") is not None

    def readers(self, options: Mapping[str, Any]) -> str:
        """See `Format`."""
        if options.get("embeddings") is not None:
            return "Its embeddings are quantized too: transformers reads them once qtoolkit is imported, not by itself."
        return "With `import qtoolkit` before it, the package compressed-tensors is not needed, and codes stay packed."

    def register(self, layers_of: LayersOf) -> None:
        """See `Format`."""
        from qtoolkit.formats.compressed_tensors.loader import register

        register()


FORMAT = CompressedTensorsFormat()
