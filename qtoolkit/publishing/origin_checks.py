"""Check where a saved model comes from: its base, and the licence that it stands under."""

from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.config_ages import same_scaling
from qtoolkit.checkpoints.hub_names import BASE_MODEL_RELATIONS
from qtoolkit.files import read_json
from qtoolkit.hub.licenses import named_license
from qtoolkit.publishing.artifact import Artifact
from qtoolkit.publishing.file_checks import check_of, without_receipt
from qtoolkit.publishing.lineage import is_copy_of_hub, is_in_memory
from qtoolkit.publishing.patterns import last_part
from qtoolkit.records import NOT_COMPARED, Check, Receipt

# Entries of a config that quantizing and saving change.
_CHANGED = {
    *("_name_or_path", "_model_name_or_path", "architectures", "dtype", "torch_dtype"),
    *("quantization_config", "transformers_version"),
}


def check_license(artifact: Artifact, given: str | None = None) -> Check:
    """Check that the licence is known, and that the card names the one of the base.

    Args:
        artifact: the folder.
        given: the licence that whoever publishes it names; None where nobody does.
    """
    name = "licence"
    card = named_license(artifact.card)
    base = artifact.receipt.license if artifact.receipt else None
    if base and card and base != card:
        return Check(name, False, f"the card says {card}, and the base stands under {base}", "name the base's licence")
    if base or card:
        return Check(name, True, base or card or "")
    if given:
        return Check(name, True, f"{given}, as given here", "neither the base's card nor this folder's names one")
    return Check(name, None, "not known", "neither the base's card nor this folder's names one")


def check_base(artifact: Artifact, base: str | None, base_folder: Path | None) -> Check:
    """Check that the base is the one that the receipt, the card and the caller name, and has the same config.

    Args:
        artifact: the folder.
        base: what the caller calls it; None where the caller does not.
        base_folder: where it is on this machine; None where it is not.
    """
    name = "base model"
    problems = []
    receipt = artifact.receipt
    named = getattr(artifact.card, "base_model", None)
    known = named if isinstance(named, str) else None
    suffix = ""
    if receipt:
        known = receipt.source.name
        if not _may_name(receipt, named, getattr(artifact.card, "base_model_relation", None)):
            problems.append(f"the card says {named}, and the receipt {known}")
        if base and last_part(base.partition("@")[0]) != last_part(known):
            problems.append(f"base is {base}, and the receipt says {known}")
        if is_in_memory(receipt):
            suffix = f" in memory, not known to be that model{f'; the card names {named}' if named else ''}"
        elif receipt.source.commit_hash:
            suffix = f", commit {receipt.source.commit_hash}"
    if base_folder is None:
        suffix += f": all that names it agrees; {NOT_COMPARED}"
    else:
        problems += _config_problems(artifact.config, read_json(base_folder / "config.json"))
    if not problems and known is None:
        return without_receipt(name)
    return check_of(name, problems, f"{known}{suffix}", "name the right base, or quantize it again")


def _may_name(receipt: Receipt, base_model: Any, relation: Any) -> bool:
    """Check whether a card may name a base: the quantized model, or, where that is not on the Hub, an ancestor of it.

    Args:
        receipt: of the folder.
        base_model, relation: as the card has them.
    """
    if not isinstance(base_model, str) or last_part(base_model) == last_part(receipt.source.name):
        return True
    if is_in_memory(receipt):
        return True
    return not is_copy_of_hub(receipt) and relation in BASE_MODEL_RELATIONS and relation != "quantized"


def _config_problems(ours: dict[str, Any], theirs: dict[str, Any], within: str = "") -> list[str]:
    """List the entries that two configs both have with different values, but for those that quantizing changes.

    Configs of parts, such as the `text_config` of a model that takes images, are compared entry by entry: saving adds
    the dtype to each, and the names of other versions.

    Args:
        ours, theirs: the configs.
        within: the names of the parts they are of, each with a dot.
    """
    problems = []
    for key in sorted((ours.keys() & theirs.keys()) - _CHANGED):
        own, other = ours[key], theirs[key]
        if key.endswith("_config") and isinstance(own, dict) and isinstance(other, dict):
            problems += _config_problems(own, other, f"{within}{key}.")
        elif not (same_scaling(own, other) if key == "rope_scaling" else own == other):
            problems.append(f"{within}{key} is {own!r:.60} instead of the base's {other!r:.60}")
    return problems
