"""Say which of transformers' classes opens a checkpoint, by what its config says of it alone."""

from collections.abc import Mapping
from typing import Any

# For text alone; and for text with images, of whose models a quantized copy keeps every part.
TEXT_CLASS, IMAGE_CLASS = "AutoModelForCausalLM", "AutoModelForImageTextToText"
# What to do about a model that neither opens.
NAME_ANOTHER = f"name one that {TEXT_CLASS} or {IMAGE_CLASS} runs"


def auto_class_of(values: Mapping[str, Any]) -> str | None:
    """Return the name of the class of transformers that opens a checkpoint as it was saved; None where none does.

    The class that `architectures` names decides: the type `qwen3_5` has one for text and another for images. A name
    that transformers does not know, of a repository's own code, says nothing.

    Args:
        values: of its config: `model_type` and `architectures`.
    """
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    kind, named = values.get("model_type"), architectures(values)
    if not isinstance(kind, str):
        return None
    image_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    if image_class is not None and (image_class in named or not set(named).intersection(dir(transformers))):
        return IMAGE_CLASS
    is_causal = not named or set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()).intersection(named)
    return TEXT_CLASS if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and is_causal else None


def takes_images(architecture: str) -> bool:
    """Check whether a class of transformers takes images beside text, by its name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return architecture in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()


def architectures(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the model classes that a config lists, mostly one."""
    named = values.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
