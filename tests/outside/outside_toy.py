"""toy: a format of its own, codes transposed and a list of layers beside them, and a small method that writes it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from qtoolkit.errors import CheckpointError
from qtoolkit.formats import LayersFormat, Reader
from qtoolkit.kernels import Codes, QuantizedLinear, memory_bytes, output_blocks
from qtoolkit.methods import Layer, LinearMethod, MethodConfig, option
from qtoolkit.records import LayerPlan, ignore_progress
from qtoolkit.stream.loading import load_streamed
from qtoolkit.tensor.lazy import LazyTensor

SIDE_FILE = "toy.json"


class ToyFormat(LayersFormat):
    """`quant_method: toy`, and the names of its layers in `toy.json`, which the program toyreader looks for."""

    name = quant_method = tag = "toy"
    side_file_names = (SIDE_FILE,)

    def reader(self, checkpoint: Any) -> Reader:
        return ToyReader(checkpoint)

    def side_files(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        return {SIDE_FILE: json.dumps({"version": 1, "layers": values["layers"]})}

    def problems(self, folder: Path, values: Mapping[str, Any]) -> Sequence[str]:
        file = folder / SIDE_FILE
        if not file.is_file():
            return [f"{SIDE_FILE} is missing, without which toyreader finds no layer"]
        named = json.loads(file.read_text()).get("layers")
        return [] if named == values["layers"] else [f"{SIDE_FILE} names other layers than config.json"]

    def readers(self, options: Mapping[str, Any]) -> str:
        return f"toyreader reads these layers from version 1.2; older versions look for no {SIDE_FILE}."


class ToyReader(Reader):
    """A checkpoint whose `toy.json` names its layers."""

    name = "toy"

    def __init__(self, checkpoint: Any) -> None:
        file = checkpoint.path / SIDE_FILE
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, and names the layers: get it from where the weights are from")
        self.bits = dict.fromkeys(json.loads(file.read_text())["layers"], 8)

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        return planned(layer) if layer.name in self.bits else layer.left_alone("not quantized in the file")

    def load(self, checkpoint: Any, *, device: str) -> Any:
        return load_streamed(checkpoint, None, device=device, on_progress=ignore_progress)


def planned(layer: Layer) -> LayerPlan:
    stored = layer.num_weights + 4 * layer.out_features
    kept = memory_bytes(ToyTensors(layer.out_features, layer.in_features), device=layer.device)
    return layer.replaced(kept, disk_bytes=stored, working_bytes=5 * layer.num_weights + stored)


@dataclass(frozen=True)
class ToyTensors:
    """Codes uint8 [in, out] around 128, and float32 steps [out]."""

    out_features: int
    in_features: int

    bits: ClassVar[int] = 8
    centered: ClassVar[bool] = True
    expands_fast: ClassVar[bool] = True
    scale_name: ClassVar[str] = "steps"
    packed_names: ClassVar[tuple[str, ...]] = ("columns", "steps")

    @property
    def inputs_per_scale(self) -> int:
        return self.in_features

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        columns = (self.in_features, self.out_features)
        return {"columns": (columns, torch.uint8), "steps": ((self.out_features,), torch.float32)}

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        return ToyCodes(tensors["columns"], tensors["steps"])

    def encode(self, codes: Codes) -> dict[str, LazyTensor]:
        def columns() -> torch.Tensor:
            return torch.cat([*map(codes.codes, output_blocks(codes))], dim=1)

        def steps() -> torch.Tensor:
            return codes.scale(slice(0, self.out_features))[0].clone()

        made = {"columns": columns, "steps": steps}
        return {name: LazyTensor(*self.tensors()[name], make) for name, make in made.items()}


class ToyCodes(Codes):
    """The tensors of `ToyTensors`."""

    bits = 8
    centered = True
    expands_fast = True

    def __init__(self, weight: torch.Tensor, steps: torch.Tensor) -> None:
        self.in_features, self.out_features = weight.shape
        self.inputs_per_scale = self.in_features
        self.device = weight.device
        self.zero_points = middle
        self.weight, self.steps = weight, steps

    def codes(self, outputs: slice) -> torch.Tensor:
        return self.weight[:, outputs].clone()

    def scale(self, outputs: slice) -> torch.Tensor:
        return self.steps[None, outputs]


def middle(outputs: slice) -> int:
    return 128


@dataclass(frozen=True, kw_only=True)
class Toy(MethodConfig):
    """8-bit codes with one step an output, in the format toy."""

    method: ClassVar[str] = "toy"
    format: ClassVar[str] = "toy"

    reach: float = option(1.0, help="share of an output's largest weight that the codes reach")


class ToyMethod(LinearMethod):
    """toy as a method."""

    config_class = Toy
    summary = "8-bit codes in the format toy"
    code_bits = 8

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        return planned(layer)

    def build(self, layer: Layer, config: Any, dtype: Any) -> torch.nn.Module:
        return QuantizedLinear(ToyTensors(layer.out_features, layer.in_features), bias=layer.has_bias, dtype=dtype)

    def quantize_weight(self, weight: torch.Tensor, layer: Layer, config: Any) -> dict[str, torch.Tensor]:
        steps = (weight.float().abs().amax(1) * config.reach / 127).clamp(min=1e-8)
        codes = (weight.float() / steps[:, None]).round().clamp(-127, 127) + 128
        return {"columns": codes.to(torch.uint8).T.contiguous(), "steps": steps}


FORMAT, METHOD = ToyFormat(), ToyMethod()
