"""Refuse adapters such as LoRA's: they change what a model computes, and lie beside its weights, not in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG
from qtoolkit.checkpoints.remedy import refuse_pointers
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.files import read_json


def refuse_adapter(folder: Path, name: str | None = None) -> None:
    """Refuse a folder with an adapter: transformers applies it to the weights beside it, or to its base model.

    Args:
        folder: the folder.
        name: what the user calls the folder; None for its path.

    Raises:
        UnsupportedModelError: there is an adapter; or there is no model, and inner folders hold adapters, as a
            `PeftModel` with several saves them.
        CheckpointError: the adapter is a Git LFS pointer, which git has not fetched.
    """
    has_config = (folder / "config.json").is_file()
    if not (folder / ADAPTER_CONFIG).is_file():
        below = [] if has_config else adapters_below(folder)
        if below:
            merge = f"PeftModel.from_pretrained(base, {str(folder / below[0])!r}).merge_and_unload()"
            raise UnsupportedModelError(
                f"{name or folder} has no config.json, and adapters in {', '.join(below)!r:.100}: merge each into its "
                f"base in full precision, `{merge}.save_pretrained(MERGED)`, and name MERGED"
            )
        return
    refuse_pointers(folder, [ADAPTER_CONFIG, "adapter_model.*"])
    values = read_json(folder / ADAPTER_CONFIG)
    called = name or str(folder)
    held = _described(values.get("peft_type"), values.get("base_model_name_or_path"))
    merge = f"`PeftModel.from_pretrained(base, {called!r}).merge_and_unload().save_pretrained(MERGED)`, and name MERGED"
    if_merged = f" (if that was done here, remove {ADAPTER_CONFIG})" if has_config else ""
    raise UnsupportedModelError(f"{called} {held}: merge it into its base in full precision, {merge}{if_merged}")


def adapters_below(folder: Path) -> list[str]:
    """Return the names of the folders in a folder that hold an adapter each; transformers applies none of them."""
    return sorted(file.parent.name for file in folder.glob(f"*/{ADAPTER_CONFIG}") if file.is_file())


def refuse_adapted(model: Any) -> None:
    """Refuse a model in memory with an adapter: a `PeftModel`, or a model whose `load_adapter` was called.

    Raises:
        UnsupportedModelError: it has one.
    """
    from transformers import PreTrainedModel

    configs = getattr(model, "peft_config", None)
    if not configs:
        return
    # A dict of configs by name; in some versions of peft, one config.
    first = next(iter(configs.values())) if isinstance(configs, Mapping) else configs
    kind = getattr(first, "peft_type", None)
    held = _described(getattr(kind, "value", kind), getattr(first, "base_model_name_or_path", None))
    way = "it is none that can be merged, give a model without it"
    merged = "what PeftModel.from_pretrained({}, adapter).merge_and_unload() returns"
    has_merge = hasattr(model, "merge_and_unload")
    if (has_merge or isinstance(model, PreTrainedModel)) and getattr(model.config, "quantization_config", None):
        # Merging into codes would round them once more, and the model would stay quantized.
        way = f"its base is quantized, give {merged.format('base in full precision')}"
    elif has_merge:
        way = "give what its merge_and_unload() returns"
    elif isinstance(model, PreTrainedModel):
        way = f"give {merged.format('base')}"
    raise UnsupportedModelError(f"this {type(model).__name__} {held}: {way}")


def _described(kind: Any, base: Any) -> str:
    """Return the part of a message that names an adapter's type and base, as far as its config gives texts."""
    of_type = f" of type {kind!r:.40}" if isinstance(kind, str) else ""
    for_base = f"for {base!r:.100}" if isinstance(base, str) and base else "for a base that it does not name"
    return f"holds an adapter{of_type} {for_base}, which quantizing would leave out"
