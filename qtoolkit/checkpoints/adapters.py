"""Adapters, such as LoRA's, that belong to a model's weights and are no part of them: refused, never left out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG
from qtoolkit.checkpoints.remedy import refuse_pointers
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.files import read_json


def refuse_adapter(folder: Path, name: str | None = None) -> None:
    """Refuse a folder with an adapter, which transformers would apply to the weights beside it, or to its base's.

    Args:
        folder: the folder.
        name: what the person calls it; None for its path.

    Raises:
        UnsupportedModelError: there is one, or no model and some in folders of it, as a `PeftModel` saves several.
        CheckpointError: there is one that git has not fetched.
    """
    has_config = (folder / "config.json").is_file()
    if not (folder / ADAPTER_CONFIG).is_file():
        below = [] if has_config else adapters_below(folder)
        if below:
            merged = f"PeftModel.from_pretrained(base, {str(folder / below[0])!r}).merge_and_unload()"
            raise UnsupportedModelError(
                f"{name or folder} has no config.json, and adapters in {', '.join(below)!r:.100}: merge each into its "
                f"base in full precision, `{merged}.save_pretrained(MERGED)`, and name MERGED"
            )
        return
    refuse_pointers(folder, [ADAPTER_CONFIG, "adapter_model.*"])
    values, called = read_json(folder / ADAPTER_CONFIG), name or str(folder)
    held = _held(values.get("peft_type"), values.get("base_model_name_or_path"))
    merged = (
        f"`PeftModel.from_pretrained(base, {called!r}).merge_and_unload().save_pretrained(MERGED)`, and name MERGED"
    )
    done = f" (if that was done here, remove {ADAPTER_CONFIG})" if has_config else ""
    raise UnsupportedModelError(f"{called} {held}: merge it into its base in full precision, {merged}{done}")


def adapters_below(folder: Path) -> list[str]:
    """The folders in a folder that hold an adapter each; transformers applies none of them."""
    return sorted(file.parent.name for file in folder.glob(f"*/{ADAPTER_CONFIG}") if file.is_file())


def refuse_adapted(model: Any) -> None:
    """Refuse a model in memory that carries an adapter: a `PeftModel`, or one that `load_adapter` gave one.

    Raises:
        UnsupportedModelError: it does.
    """
    from transformers import PreTrainedModel

    configs = getattr(model, "peft_config", None)
    if not configs:
        return
    # One by name; of some versions, one alone.
    first = next(iter(configs.values())) if isinstance(configs, Mapping) else configs
    kind = getattr(first, "peft_type", None)
    held = _held(getattr(kind, "value", kind), getattr(first, "base_model_name_or_path", None))
    way = "it is none that can be merged, give a model without it"
    merged = "what PeftModel.from_pretrained({}, adapter).merge_and_unload() returns"
    has_merge = hasattr(model, "merge_and_unload")
    if (has_merge or isinstance(model, PreTrainedModel)) and getattr(model.config, "quantization_config", None):
        # Merged into codes it is rounded once more, and the model stays quantized.
        way = f"its base is quantized, give {merged.format('base in full precision')}"
    elif has_merge:
        way = "give what its merge_and_unload() returns"
    elif isinstance(model, PreTrainedModel):
        way = f"give {merged.format('base')}"
    raise UnsupportedModelError(f"this {type(model).__name__} {held}: {way}")


def _held(kind: Any, base: Any) -> str:
    """The part of a message that names an adapter and its base, which somebody else wrote."""
    told = f" of type {kind!r:.40}" if isinstance(kind, str) else ""
    of = f"for {base!r:.100}" if isinstance(base, str) and base else "for a base that it does not name"
    return f"holds an adapter{told} {of}, which quantizing would leave out"
