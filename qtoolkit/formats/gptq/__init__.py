"""GPTQ checkpoints: codes in 32-bit words, as auto-gptq, gptqmodel, vLLM and transformers read them."""

from qtoolkit.formats.gptq.tensors import CHECKPOINT_FORMATS, GPTQTensors, in_order, unpack_zero_points, zero_offset

__all__ = ["CHECKPOINT_FORMATS", "GPTQTensors", "in_order", "unpack_zero_points", "zero_offset"]
