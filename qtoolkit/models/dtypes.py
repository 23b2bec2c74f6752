"""Choose the floating-point type that a model is loaded in."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Types that full-precision weights are stored and loaded in.
FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def dtype_to_load(
    name: str, config: "PreTrainedConfig", tensors: Mapping[str, StoredTensor | torch.Tensor]
) -> torch.dtype:
    """Return the type that the config names, otherwise the one that most weights are stored in.

    Args:
        name: what the model is called in the error.
        config: its config.
        tensors: its weights by name.

    Raises:
        CheckpointError: no model computes in the type that the config names.
    """
    if config.dtype is None:
        return stored_dtype(tensors)
    names = {dtype: str(dtype).removeprefix("torch.") for dtype in FLOATS}
    dtype = next((dtype for dtype, text in names.items() if config.dtype in (text, dtype)), None)
    if dtype is None:
        what = f"the config of {name} wants {config.dtype!r:.40} as dtype"
        raise CheckpointError(f"{what}: it must be one of {', '.join(names.values())}")
    return dtype


def stored_dtype(tensors: Mapping[str, StoredTensor | torch.Tensor]) -> torch.dtype:
    """Return the floating-point type that most bytes of the weights are stored in; float32 where none are floats."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.dtype in FLOATS:
            sizes[tensor.dtype] += tensor.nbytes
    return sizes.most_common(1)[0][0] if sizes else torch.float32
