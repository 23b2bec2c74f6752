"""The GPTQ format: codes in 32-bit words, as auto-gptq, gptqmodel, vLLM and transformers read them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.filenames import QUANTIZE_CONFIG
from qtoolkit.formats.base import Layers, LayersOf, is_uneven
from qtoolkit.formats.grouped import Grid, GroupedFormat, RecodedLayers, base_grid
from qtoolkit.formats.layer import Layer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qtoolkit.formats.base import Reader
    from qtoolkit.formats.gptq.tensors import GPTQTensors
    from qtoolkit.formats.layer_codes import LayerCodes
    from qtoolkit.kernels import Codes
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted

__all__ = ["FORMAT"]

# Inputs and outputs that every reader of the format packs without a remainder: 32 codes of 3 bits fill 3 words.
_MULTIPLE = 32


class GPTQFormat(GroupedFormat):
    """Store, read and describe GPTQ checkpoints."""

    name = quant_method = tag = "gptq"
    packages = ("optimum", "gptqmodel")
    reads_itself = True
    side_file_names = (QUANTIZE_CONFIG,)
    layer_suffixes = (".qweight",)
    widths = (2, 3, 4, 8)
    layouts = ("gptq", "gptq_v2")
    blocks_alone = True

    def method_of(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """See `Format`."""
        from qtoolkit.formats.gptq.config import options_of, origin_of

        return origin_of(values) or ("gptq", options_of(values))

    def corrected(self, checkpoint: "Checkpoint") -> "Checkpoint":
        """See `Format`: correct a wrong `checkpoint_format`, and bits and groups that the tensors do not have."""
        from qtoolkit.formats.gptq.stored_layers import correct_format, correct_sizes

        return correct_sizes(correct_format(checkpoint))

    def reader(self, checkpoint: "Checkpoint") -> "Reader":
        """See `Format`."""
        from qtoolkit.formats.gptq.reader import GPTQReader

        return GPTQReader(checkpoint)

    def side_files(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        """See `Format`: the config a second time, in the only file that auto-gptq reads it from."""
        return {QUANTIZE_CONFIG: json.dumps(values, indent=2) + "\n"}

    def problems(self, folder: Path, values: Mapping[str, Any]) -> Sequence[str]:
        """See `Format`."""
        from qtoolkit.formats.gptq.stored_layers import problems_of

        return problems_of(folder, values)

    def layer_bits(self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, int]:
        """See `Format`: see `_stored_layers`."""
        return {layer: bits for layer, bits, _ in _stored_layers(shapes)}

    def layer_shapes(
        self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> Mapping[str, tuple[int, int]]:
        """See `Format`: codes are stored as [inputs * bits / 32, outputs]."""
        return {layer: shape for layer, _, shape in _stored_layers(shapes)}

    def needs_qtoolkit(self, options: Mapping[str, Any]) -> bool:
        """See `Format`: optimum gives all layers the same bits."""
        return is_uneven(options)

    def readers(self, options: Mapping[str, Any]) -> str:
        """See `Format`."""
        return (
            "" if is_uneven(options) else "With `import qtoolkit` before it, neither optimum nor gptqmodel is needed."
        )

    def reason_to_skip(self, layer: Layer) -> str:
        """See `GroupedFormat`."""
        if not layer.in_block:
            return "outside the blocks, which alone the format's readers look for"
        if layer.in_features % _MULTIPLE or layer.out_features % _MULTIPLE:
            shape = f"[{layer.out_features}, {layer.in_features}]"
            return f"the format needs outputs and inputs in multiples of {_MULTIPLE}, not {shape}"
        return ""

    def tensors_of(
        self, config: Any, out_features: int, in_features: int, *, bits: int, dtype: "torch.dtype"
    ) -> "GPTQTensors":
        """See `GroupedFormat`: scales are float16, whatever the model's type."""
        from qtoolkit.formats.gptq.tensors import GPTQTensors

        return GPTQTensors(
            out_features,
            in_features,
            bits=bits,
            group_size=config.group_size,
            # Methods without the option choose symmetric codes, which both layouts hold.
            checkpoint_format=getattr(config, "checkpoint_format", "gptq"),
            centered=config.sym,
        )

    def codes_of(self, config: Any, tensors: Mapping[str, "torch.Tensor"]) -> "Codes":
        """See `GroupedFormat`."""
        words, inputs = tensors["qweight"], len(tensors["g_idx"])
        bits = 32 * len(words) // inputs
        stored = self.tensors_of(config, words.shape[1], inputs, bits=bits, dtype=tensors["scales"].dtype)
        return stored.decode(tensors)

    def describe(
        self,
        config: Any,
        quantized: Mapping[str, int],
        left: Iterable[str],
        outside: Iterable[str],
        embeddings: Mapping[str, Any],
    ) -> dict[str, Any]:
        """See `GroupedFormat`."""
        from qtoolkit.formats.gptq.config import describe

        return describe(config, quantized, left)

    def layout_of(self, values: Mapping[str, Any]) -> str:
        """See `GroupedFormat`."""
        from qtoolkit.formats.gptq.config import read_quantize_config

        return read_quantize_config(values).checkpoint_format

    def rounding_config(
        self,
        layers: Layers,
        names: Iterable[str],
        grids: Mapping[str, Grid],
        ignored: Iterable[str],
        origin: Mapping[str, Any],
        embeddings: Mapping[str, Grid],
    ) -> Any:
        """See `GroupedFormat`; what is outside the blocks needs no mention."""
        from qtoolkit.formats.gptq.loader import GPTQConfig, register
        from qtoolkit.formats.rounding_loader import RoundingConfig, register_rounding

        register()
        register_rounding()
        recoded = RecodedLayers(
            base=base_grid(grids, embeddings),
            grids=grids,
            embeddings={},
            left=tuple(name for name in ignored if any(part.isdecimal() for part in name.split("."))),
            outside=(),
            whole=False,
            options=origin["options"],
            origin=origin,
        )
        return RoundingConfig(GPTQConfig, self.describe_recoded(recoded, self.layouts[0]), layers, names)

    def reason_against(self, codes: "LayerCodes", layout: str) -> str:
        """See `GroupedFormat`: "gptq" stores zero points less one, and has no room for 0."""
        outputs, inputs = codes.shape
        if codes.place != "block":
            return "quantized embeddings" if codes.place == "embedding" else "a quantized output head"
        if codes.bits not in self.widths:
            return f"codes of {codes.bits} bits"
        if inputs % _MULTIPLE or outputs % _MULTIPLE:
            return f"outputs and inputs that are no multiples of {_MULTIPLE}, [{outputs}, {inputs}]"
        offset = 1 if layout == "gptq" else 0
        if codes.least_zero < offset:
            return "zero points of 0"
        highest = 2**codes.bits - 1 + offset
        return f"zero points of {codes.largest_zero} with {codes.bits} bits" if codes.largest_zero > highest else ""

    def recoded(self, codes: "LayerCodes", layout: str, scale_dtype: "torch.dtype") -> "GPTQTensors":
        """See `GroupedFormat`."""
        from qtoolkit.formats.gptq.tensors import GPTQTensors

        return GPTQTensors(
            *codes.shape,
            bits=codes.bits,
            group_size=codes.inputs_per_scale,
            checkpoint_format=layout,
            scale_dtype=scale_dtype,
            centered=codes.sym,
        )

    def scale_dtype_of(self, dtype: "torch.dtype") -> "torch.dtype":
        """See `GroupedFormat`: float16, whatever the model's type."""
        import torch

        return torch.float16

    def describe_recoded(self, layers: RecodedLayers, layout: str) -> dict[str, Any]:
        """See `GroupedFormat`."""
        from qtoolkit.formats.gptq.config import describe_recoded

        return describe_recoded(layers.without_sizes(), layout)

    def load(self, checkpoint: "Checkpoint", values: Mapping[str, Any], *, device: str) -> "Noted[PreTrainedModel]":
        """See `GroupedFormat`."""
        from qtoolkit.formats.gptq.stored_layers import load_gptq

        return load_gptq(checkpoint, values, device=device)

    def register(self, layers_of: LayersOf) -> None:
        """See `Format`."""
        from qtoolkit.formats.gptq.loader import register

        register()


def _stored_layers(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """Yield each layer with the bits of its codes and its [outputs, inputs], by the shapes of its tensors.

    A group index has an entry for each input. Where there is none, as in AutoRound's files, the zero points of a group
    have as many bits as its codes.
    """
    for name, shape in shapes.items():
        layer = name.removesuffix(".qweight")
        index, zeros = (shapes.get(f"{layer}.{end}", ()) for end in ("g_idx", "qzeros"))
        if layer == name or len(shape) != 2:
            continue
        if len(index) == 1 and index[0]:
            yield layer, 32 * shape[0] // index[0], (shape[1], index[0])
        elif not index and len(zeros) == 2 and shape[1] and zeros[1]:
            bits = 32 * zeros[1] // shape[1]
            if bits:
                yield layer, bits, (shape[1], 32 * shape[0] // bits)


FORMAT = GPTQFormat()
