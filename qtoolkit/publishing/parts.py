"""Put together what a publication brings: saved models of one base, and the branch on which each stands."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qtoolkit.errors import ConfigError, VerificationError
from qtoolkit.formats import FileFormat, GroupedFormat
from qtoolkit.publishing.artifact import Artifact, open_artifact
from qtoolkit.publishing.card_quality import refuse_foreign_figures
from qtoolkit.records import QualityReport, Receipt
from qtoolkit.requests import PublishRequest


@dataclass(frozen=True)
class Part:
    """One saved model of a publication.

    Attributes:
        artifact: the folder.
        receipt: of the folder.
        layout: what its format calls the way that it packs codes, "gptq" or "int-quantized"; of a model that is one
            file, the type by which programs choose it, "Q8_0".
        request: what is published on its branch, as if it were published alone.
    """

    artifact: Artifact
    receipt: Receipt
    layout: str
    request: PublishRequest


# What one commit brings: one model, or several that are one file each, with the config and the card of the first one.
Branch = tuple[Part, ...]


def parts_of(request: PublishRequest) -> tuple[Part, ...]:
    """Return all saved models of a publication, the one for the request's own branch first.

    Raises:
        ConfigError: two folders in one format or of one type, or of different models; figures of none of them, or twice
            of one; a branch or a pull request where each model goes to a branch of its own.
        VerificationError: a folder without a receipt that can be read.
        ModelNotFoundError: a folder that is none, or holds no model.
    """
    artifacts = [open_artifact(path) for path in (request.path, *request.also)]
    receipts = [_receipt_of(artifact) for artifact in artifacts]
    beside = _stand_beside(artifacts)
    layouts = [layout_of(artifact) for artifact in artifacts]
    if request.also:
        _refuse_strangers(artifacts, receipts, layouts, beside=beside)
    if request.also and not beside:
        _refuse_one_branch(request)
    measured = _measured(request.reports, receipts)
    parts = []
    for index, (artifact, receipt, layout) in enumerate(zip(artifacts, receipts, layouts, strict=True)):
        own = replace(
            request,
            path=artifact.path,
            also=(),
            revision=layout if index and not beside else request.revision,
            quality=measured.get(index),
            frontier=None if index else request.frontier,
        )
        parts.append(Part(artifact, receipt, layout, own))
    return tuple(parts)


def branches_of(parts: Sequence[Part]) -> tuple[Branch, ...]:
    """Return what each branch holds, in the order of the parts."""
    branches: dict[str, Branch] = {}
    for part in parts:
        branches[part.request.revision] = (*branches.get(part.request.revision, ()), part)
    return tuple(branches.values())


def layout_of(artifact: Artifact) -> str:
    """Return what the format of a folder calls the way that it packs codes; "safetensors" in full precision."""
    format_ = artifact.format
    if format_ is None:
        return "safetensors"
    values = artifact.quantization or {}
    if isinstance(format_, FileFormat):
        return format_.file_type(values) or format_.name
    return format_.layout_of(values) if isinstance(format_, GroupedFormat) else format_.name


def _stand_beside(artifacts: Sequence[Artifact]) -> bool:
    """Check whether models are one file each, of one format, whose programs choose among the files of a branch."""
    formats = {artifact.format for artifact in artifacts}
    return len(formats) == 1 and isinstance(artifacts[0].format, FileFormat)


def _refuse_one_branch(request: PublishRequest) -> None:
    """Refuse a branch, or a pull request, for models of which each goes to a branch of its own."""
    if request.create_pr:
        raise ConfigError("a pull request brings one format: leave also out, and open one for each branch")
    if request.revision != "main":
        raise ConfigError(
            f"also makes a branch for each format, and main for the first: leave out {request.revision!r}"
        )


def _measured(reports: Sequence[QualityReport], receipts: Sequence[Receipt]) -> dict[int, QualityReport]:
    """Return which report was measured on which of some models, by the model's index.

    Raises:
        ConfigError: one on none of them, or two on one.
    """
    prints = [receipt.weights_fingerprint for receipt in receipts]
    measured: dict[int, QualityReport] = {}
    for quality in reports:
        index = prints.index(quality.weights_fingerprint) if quality.weights_fingerprint in prints else 0
        refuse_foreign_figures(quality, receipts[index])
        if index in measured:
            raise ConfigError(
                f"quality holds two reports of {quality.model!r}, which are of the same weights: give one"
            )
        measured[index] = quality
    return measured


def _receipt_of(artifact: Artifact) -> Receipt:
    """Return the receipt of a folder, without which it is not published.

    Raises:
        VerificationError: there is none that can be read.
    """
    if artifact.receipt is None:
        reason = artifact.receipt_error or f"{artifact.path} was not made by qtoolkit: it has no qtoolkit.json"
        raise VerificationError(f"{reason}; qt.verify tells what its files alone prove, and nothing is published")
    return artifact.receipt


def _refuse_strangers(
    artifacts: Sequence[Artifact], receipts: Sequence[Receipt], layouts: Sequence[str], *, beside: bool
) -> None:
    """Refuse two folders that would be one branch or one choice of it, and folders made of different models."""
    for index, layout in enumerate(layouts):
        if layout in layouts[:index]:
            one, other = artifacts[layouts.index(layout)].path, artifacts[index].path
            named = "a file is chosen by its type" if beside else "a branch is named after its format"
            raise ConfigError(f"{one} and {other} are both stored as {layout}: {named}")
    files = [artifact.path for artifact in artifacts if isinstance(artifact.format, FileFormat)]
    if len(files) > 1 and not beside:
        raise ConfigError(
            f"{files[0]} and {files[1]} are one file each, which stand beside each other in one branch: publish those "
            "into a repository of their own, and the other formats into another"
        )
    made_of = [(receipt.source.name, receipt.source.commit_hash) for receipt in receipts]
    for artifact, (name, commit) in zip(artifacts, made_of, strict=True):
        if (name, commit) != made_of[0]:
            shown = f"{name}@{commit}" if commit else name
            first = f"{made_of[0][0]}@{made_of[0][1]}" if made_of[0][1] else made_of[0][0]
            raise ConfigError(
                f"{artifact.path} was made of {shown}, and {artifacts[0].path} of {first}: one repository holds one "
                "model in several formats"
            )
