"""Decide what a card says of the base model: what the receipt proves, or what a person says."""

from dataclasses import dataclass

from qtoolkit.checkpoints.hub_names import BASE_MODEL_RELATIONS, is_commit_hash, is_hub_id
from qtoolkit.errors import ConfigError
from qtoolkit.records import Receipt


@dataclass(frozen=True)
class Lineage:
    """Where a card puts a model in the Hub's tree of models.

    Attributes:
        base_model: one name on the Hub, or several; None where none is known.
        relation: "finetune", "adapter", "merge" or "quantized"; None without a base model.
        known_by: "the receipt", "the card of NAME", or "who published this copy"; empty without a base model.
    """

    base_model: str | list[str] | None = None
    relation: str | None = None
    known_by: str = ""


def commit_of(receipt: Receipt) -> str | None:
    """Return the commit of the base that a receipt names; None where it names none, or what cannot be one."""
    commit_hash = receipt.source.commit_hash
    return commit_hash if is_commit_hash(commit_hash) else None


def is_in_memory(receipt: Receipt) -> bool:
    """Check whether a model was made from weights in memory that are not known to be those of any other."""
    return receipt.source.format == "loaded" and commit_of(receipt) is None


def is_copy_of_hub(receipt: Receipt) -> bool:
    """Check whether a model was made from one on the Hub, which its receipt names."""
    return is_hub_id(receipt.source.name) and not is_in_memory(receipt)


def lineage_of(receipt: Receipt, base_model: str | None = None, base_model_relation: str | None = None) -> Lineage:
    """Return what a card says of the base.

    Args:
        receipt: what the job wrote down when it made the model.
        base_model: "org/name", as a person says it; None for nothing.
        base_model_relation: what this model is to it; None for "quantized".

    Raises:
        ConfigError: a name that is none on the Hub, a relation that the Hub does not know, or another base than the
            receipt names.
    """
    name = receipt.source.name
    copied = name if is_copy_of_hub(receipt) else None
    refuse_claim(base_model, base_model_relation, copied)
    if copied is not None:
        return Lineage(name, "quantized", "the receipt")
    if base_model is not None:
        return Lineage(base_model, base_model_relation or "quantized", "who published this copy")
    inherited = receipt.inherited.get("base_model")
    if inherited and _are_hub_ids(inherited):
        noted = receipt.inherited.get("base_model_relation")
        relation = noted if noted in BASE_MODEL_RELATIONS else "finetune"
        return Lineage(inherited, base_model_relation or relation, f"the card of {name}")
    if base_model_relation is not None:
        raise ConfigError(
            f"base_model_relation={base_model_relation!r} is to a base that is not known: give base_model="
        )
    return Lineage()


def refuse_claim(base_model: str | None, base_model_relation: str | None, copied: str | None) -> None:
    """Refuse a base model, or a relation to it, that cannot be what a person says.

    Args:
        base_model, base_model_relation: as for `lineage_of`.
        copied: the model on the Hub that this is a quantized copy of; None for another, or where that is not known.

    Raises:
        ConfigError: a name that is none on the Hub, a relation that the Hub does not know, or another base than
            `copied`.
    """
    if base_model is not None and not is_hub_id(base_model):
        raise ConfigError(f"base_model must be a model on the Hub, org/name, got {base_model!r:.80}")
    if base_model_relation is not None and base_model_relation not in BASE_MODEL_RELATIONS:
        allowed = ", ".join(BASE_MODEL_RELATIONS)
        raise ConfigError(f"base_model_relation must be one of {allowed}, got {base_model_relation!r:.40}")
    if copied is None:
        return
    for key, given, known in (
        ("base_model", base_model, copied),
        ("base_model_relation", base_model_relation, "quantized"),
    ):
        if given not in (None, known):
            raise ConfigError(f"{key}={given!r}, but this is a quantized copy of {copied}: leave it out")


def _are_hub_ids(names: object) -> bool:
    """Check whether a value is a Hub id, or a list of such."""
    return all(map(is_hub_id, names if isinstance(names, list) else [names]))
