"""Checks of where a saved model comes from: its base, and the licence that it stands under."""

from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.names import BASE_MODEL_RELATIONS
from qtoolkit.files import read_json
from qtoolkit.hub.licenses import license_of_folder, read_card
from qtoolkit.publishing.artifact import Artifact
from qtoolkit.publishing.file_checks import of, without_receipt
from qtoolkit.publishing.lineage import is_copy_of_hub, is_in_memory
from qtoolkit.publishing.patterns import last_part
from qtoolkit.records import Check, Receipt

# What quantizing and saving changes in a config.
_CHANGED = (
    *("_name_or_path", "_model_name_or_path", "architectures", "dtype", "torch_dtype"),
    *("quantization_config", "transformers_version"),
)


def check_license(artifact: Artifact) -> Check:
    """Whether the licence is known, and the card names the one of the base."""
    name, card = "licence", license_of_folder(artifact.path)
    base = artifact.receipt.license if artifact.receipt else None
    if base and card and base != card:
        return Check(name, False, f"the card says {card}, and the base stands under {base}", "name the base's licence")
    if base or card:
        return Check(name, True, base or card or "")
    return Check(name, None, "not known", "neither the base's card nor this folder's names one")


def _may_say(receipt: Receipt, card: Any, relation: Any) -> bool:
    """Whether a card may name a base model: the one that was quantized; where that is on no Hub, one before it too."""
    if not isinstance(card, str) or last_part(card) == last_part(receipt.source.name) or is_in_memory(receipt):
        return True
    return not is_copy_of_hub(receipt) and relation in BASE_MODEL_RELATIONS and relation != "quantized"


def check_base(artifact: Artifact, base: str | None, base_folder: Path | None) -> Check:
    """Whether the base is the one that the receipt, the card and the caller name, and has the same config.

    Args:
        artifact: the folder.
        base: what the caller calls it; None where the caller does not.
        base_folder: where it is on this machine; None where it is not.
    """
    name, problems = "base model", []
    told = read_card(artifact.path)
    card = getattr(told, "base_model", None)
    source = artifact.receipt.source if artifact.receipt else None
    known = source.name if source else card if isinstance(card, str) else None
    if artifact.receipt and not _may_say(artifact.receipt, card, getattr(told, "base_model_relation", None)):
        assert source is not None
        problems.append(f"the card says {card}, and the receipt {source.name}")
    if source and base and last_part(base.partition("@")[0]) != last_part(source.name):
        problems.append(f"base is {base}, and the receipt says {source.name}")
    if base_folder is not None:
        ours, theirs = artifact.config, read_json(base_folder / "config.json")
        problems += [
            f"{key} is {ours.get(key)!r:.60} instead of the base's {theirs.get(key)!r:.60}"
            for key in sorted({*ours, *theirs} - set(_CHANGED))
            if key in ours and key in theirs and ours[key] != theirs[key]
        ]
    if not problems and known is None:
        return without_receipt(name)
    commit = f", commit {source.commit_hash}" if source and source.commit_hash else ""
    if artifact.receipt and is_in_memory(artifact.receipt):
        commit = f" in memory, not known to be that model{f'; the card names {card}' if card else ''}"
    compared = "" if base_folder else ", not at hand to be compared"
    return of(name, problems, f"{known}{commit}{compared}", "name the right base, or quantize it again")
