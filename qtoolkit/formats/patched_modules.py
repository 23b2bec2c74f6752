"""Know the modules that transformers replaces by others when it reads a quantized checkpoint."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def patched_modules(model: "PreTrainedModel", quant_method: str) -> dict[str, str]:
    """Return the full names of modules that transformers replaces when it reads a model in a format, with their class.

    Llama 4 keeps its experts in one tensor, and is read in some formats as if each expert had its own: what was saved
    as it stands has no such weights. Source: `MODULES_TO_PATCH_FOR_QUANTIZATION` of transformers.

    Args:
        model: the model in full precision.
        quant_method: the format's.
    """
    from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION as PATCHED

    patched = {kind for kind, how in PATCHED.items() if quant_method in how["quantization_methods"]}
    return {name: kind for name, module in model.named_modules() if (kind := type(module).__name__) in patched}
