"""What `qtoolkit.publish` is asked for."""

from dataclasses import KW_ONLY, dataclass, field
from os import PathLike

from qtoolkit.records import QualityReport
from qtoolkit.requests.field import describe, option
from qtoolkit.requests.model import HubToken
from qtoolkit.requests.verify_request import CheckOptions


@dataclass(frozen=True, kw_only=True)
class CardOptions(HubToken):
    """Hold what a person says for the card of a model."""

    license: str | None = option(
        None,
        help="licence of a base whose card names none: apache-2.0, mit, ...",
        empty="what the base's card names",
        metavar="NAME",
    )
    base_model: str | None = option(
        None,
        help="base for the card, of a model that was made in memory or in a folder of one's own",
        empty="what `qtoolkit.json` proves",
        metavar="ORG/NAME",
    )
    base_model_relation: str | None = option(
        None, help="what this model is to it: quantized, finetune, merge or adapter", empty="quantized", metavar="NAME"
    )


@dataclass(frozen=True)
class PublishRequest(CardOptions, CheckOptions):
    """Hold a saved model, the repository that it goes to, and what its card says."""

    path: str | PathLike[str] = field(
        metadata=describe(
            "a folder that `quantize` wrote; its `README.md`, where it has one, is the card, otherwise one is made"
        )
    )
    repo_id: str = field(metadata=describe('"org/name"; made where it does not exist'))
    _: KW_ONLY
    private: bool = option(
        True, help="let only its owner see it", empty="let everybody see it; the copy of a gated model is gated"
    )
    create_pr: bool = option(
        False, help="open a pull request, for somebody else's repository; one with the same files stays the only one"
    )
    dry_run: bool = option(False, help="send nothing and ask no network, and tell every file, its size and the card")
    revision: str = option("main", help="branch to write to, made where it does not exist", metavar="BRANCH")
    quality: QualityReport | None = option(
        None, help="what `evaluate` measured of this folder, for the card", empty="no figures", metavar="NAME"
    )
