"""Define the options of `qtoolkit.publish`."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from os import PathLike

from qtoolkit.errors import ConfigError
from qtoolkit.records import Frontier, QualityReport
from qtoolkit.requests.model import HubToken
from qtoolkit.requests.option_field import describe, option
from qtoolkit.requests.verify_request import CheckOptions


@dataclass(frozen=True, kw_only=True)
class CardOptions(HubToken):
    """Hold what a person says for the card of a model."""

    license: str | None = option(None, help="licence of a base whose card names none: apache-2.0, mit, ...")
    base_model: str | None = option(
        None, help="base for the card, of a model made in memory or in a folder of one's own", metavar="ORG/NAME"
    )
    base_model_relation: str | None = option(
        None, help="what this model is to it: quantized (default), finetune, merge or adapter"
    )


@dataclass(frozen=True)
class PublishRequest(CardOptions, CheckOptions):
    """Hold a saved model, the repository that it goes to, and what its card says."""

    path: str | PathLike[str] = field(metadata=describe("a folder that `quantize` or `convert` wrote"))
    repo_id: str = field(metadata=describe('"org/name"; made where it does not exist'))
    _: KW_ONLY
    private: bool = option(True, help="let only its owner see it", empty="let everybody see it")
    create_pr: bool = option(False, help="open a pull request, for a repository of somebody else")
    dry_run: bool = option(False, help="send nothing, and tell every file, its size and the card")
    also: Sequence[str | PathLike[str]] = option(
        (),
        help="folders with the same model in other formats, each for a branch named after its format; .gguf files of "
        "other types stand beside the first one",
        metavar="DIR",
    )
    revision: str = option("main", help="branch to write to, made where it does not exist", metavar="BRANCH")
    quality: QualityReport | Sequence[QualityReport] | None = option(
        None, help="what `evaluate` measured of this folder, for the card; a list where others are named too"
    )
    frontier: Frontier | None = option(None, help="what `frontier` measured of its base, for the card")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.also, list | tuple) or not all(isinstance(one, str | PathLike) for one in self.also):
            raise ConfigError(f"also must be a list of folders, got {self.also!r:.60}")
        reports: tuple[object, ...] = self.reports
        odd = [one for one in reports if not isinstance(one, QualityReport)]
        if odd:
            raise ConfigError(f"quality must be what qt.evaluate returns, got {type(odd[0]).__name__}")
        if not isinstance(self.frontier, Frontier | None):
            raise ConfigError(f"frontier must be what qt.frontier returns, got {type(self.frontier).__name__}")

    @property
    def reports(self) -> tuple[QualityReport, ...]:
        """Return all reports of `quality`, of which there may be one, several or none."""
        if self.quality is None:
            return ()
        # Anything that is no list is one report, or refused as none.
        return tuple(self.quality) if isinstance(self.quality, Sequence) else (self.quality,)
