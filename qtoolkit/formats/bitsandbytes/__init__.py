"""The format of bitsandbytes, which transformers writes and reads: NF4, FP4 and LLM.int8()."""

import copy
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import CheckpointError, oneline
from qtoolkit.formats.base import Format, LayersOf
from qtoolkit.formats.bitsandbytes.cpu_shapes import BLOCK_SIZE, note_on_cpu, packs_on_cpu
from qtoolkit.optional import optional

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from qtoolkit.checkpoints.safetensors import StoredTensor
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted

__all__ = ["FORMAT", "config_with_experts", "keep_exact", "load_layers", "note_on_cpu", "options_of"]

# Where int8 products log that their inputs will be cast.
CASTS = logging.getLogger("bitsandbytes.autograd._functions")
# The tensors beside a 4-bit weight that hold its scales, levels and description.
_UNPACKED = re.compile(r"\.weight\.((nested_)?(absmax|quant_map)|quant_state\..+)$")


class BitsAndBytesFormat(Format):
    """Describe checkpoints of bitsandbytes."""

    name = quant_method = tag = "bitsandbytes"
    packages = ("bitsandbytes",)
    experts_alone = False
    layer_suffixes = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4", ".SCB")

    def method_of(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """See `Format`."""
        from transformers import BitsAndBytesConfig

        try:
            config = BitsAndBytesConfig.from_dict(dict(values))
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"the config is none of bitsandbytes ({oneline(error)}): get it again") from error
        return options_of(config)

    def corrected(self, checkpoint: "Checkpoint") -> "Checkpoint":
        """See `Format`: say of a mixture whose experts are in 16 bits, as transformers leaves them, that they are."""
        from qtoolkit.formats.bitsandbytes.loader import quantized_names
        from qtoolkit.formats.split_experts import EXPERTS, leaves_experts

        values = checkpoint.quantization or {}
        if not values.get("load_in_4bit") or not leaves_experts(checkpoint, quantized_names(checkpoint.tensors)):
            return checkpoint
        skipped = values.get("llm_int8_skip_modules") or []
        config = copy.deepcopy(checkpoint.config)
        config.quantization_config = {**values, "llm_int8_skip_modules": [*skipped, EXPERTS]}
        return replace(checkpoint, config=config)

    def structure(self, tensors: "Mapping[str, StoredTensor | Tensor]") -> "Mapping[str, Tensor]":
        """See `Format`: without values, and without what bitsandbytes unpacks of a 4-bit weight as it is read."""
        import torch

        return {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            for name, tensor in tensors.items()
            if not _UNPACKED.search(name)
        }

    def layer_bits(self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, int]:
        """See `Format`."""
        found = ((name, suffix) for name in shapes for suffix in self.layer_suffixes if name.endswith(suffix))
        layers = ((name.removesuffix(suffix).removesuffix(".weight"), suffix) for name, suffix in found)
        return {layer: 8 if suffix == ".SCB" else 4 for layer, suffix in layers}

    def note_on_shapes(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """See `Format`."""
        return note_on_cpu(shapes)

    def register(self, layers_of: LayersOf) -> None:
        """See `Format`: also where each expert is a layer."""
        from qtoolkit.formats.bitsandbytes.loader import register

        register()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """See `Format`: without the line that each int8 product of a bfloat16 model logs, thousands for a sentence."""
        CASTS.addFilter(is_no_cast)
        try:
            yield
        finally:
            CASTS.removeFilter(is_no_cast)


def options_of(config: Any) -> tuple[str, dict[str, Any]]:
    """Return a method's name and the options of its config from transformers' `BitsAndBytesConfig`."""
    skipped = config.llm_int8_skip_modules
    exclude = {} if skipped is None else {"exclude": tuple(skipped)}
    if config.load_in_8bit:
        return "int8", {"threshold": config.llm_int8_threshold, **exclude}
    return config.bnb_4bit_quant_type, {
        "double_quant": config.bnb_4bit_use_double_quant,
        "compute_dtype": str(config.bnb_4bit_compute_dtype).removeprefix("torch."),
        **exclude,
    }


def config_with_experts(options: Mapping[str, Any]) -> "BitsAndBytesConfig":
    """Return transformers' config with these options whose experts become layers, quantized but for those it skips."""
    from qtoolkit.formats.bitsandbytes.loader import ExpertsConfig

    return ExpertsConfig(**options)


def load_layers(checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
    """Build the model of a checkpoint on `device`, "cpu" or "cuda:0", also where transformers lacks a place for layers.

    Those are experts, of a 4-bit file that has them as layers, and linear layers of a class of their own.

    Raises:
        CheckpointError: weights are missing, have other shapes, or cannot be read.
    """
    from qtoolkit.formats.bitsandbytes.loader import load_checkpoint

    return load_checkpoint(checkpoint, device=device)


def keep_exact(model: "PreTrainedModel") -> None:
    """Let layers of any shape run on a CPU, and 4-bit ones be saved exactly afterwards, also while others run them."""
    bnb = optional("bitsandbytes", "a 4-bit model")
    from qtoolkit.formats.bitsandbytes.linear4bit import Linear4bit
    from qtoolkit.formats.bitsandbytes.linear8bit import Linear8bitLt, mute_products

    for module in model.modules():
        if type(module) is bnb.nn.Linear8bitLt:
            module.__class__ = Linear8bitLt
            mute_products()
        if type(module) is bnb.nn.Linear4bit:
            module.__class__ = Linear4bit
            # A layer that is not packed is expanded for each product, as on other processors.
            block_size = getattr(getattr(module.weight, "quant_state", None), "blocksize", BLOCK_SIZE)
            module.support_avx512bf16_for_cpu &= packs_on_cpu(module.out_features, module.in_features, block_size)


def is_no_cast(record: logging.LogRecord) -> bool:
    """Check whether a log line says anything but that inputs will be cast."""
    return "inputs will be cast" not in str(record.msg)


FORMAT = BitsAndBytesFormat()
