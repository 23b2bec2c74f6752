"""Publish one model in several formats: a branch for each, and a card on main that says which there are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qtoolkit.errors import ConfigError, VerificationError
from qtoolkit.formats import GroupedFormat
from qtoolkit.publishing.artifact import Artifact, open_artifact
from qtoolkit.publishing.card_quality import refuse_foreign_figures
from qtoolkit.publishing.contract_check import stored_in
from qtoolkit.readers import BRANCHES, load_lines, served_by
from qtoolkit.records import QualityReport, Receipt
from qtoolkit.records.markdown import table
from qtoolkit.requests import PublishRequest
from qtoolkit.units import format_bytes


@dataclass(frozen=True)
class Part:
    """One format of a publication.

    Attributes:
        artifact: the folder.
        receipt: of the folder.
        layout: what its format calls the way that it packs codes, "gptq" or "int-quantized".
        request: what is published on its branch, as if it were published alone.
    """

    artifact: Artifact
    receipt: Receipt
    layout: str
    request: PublishRequest


def parts_of(request: PublishRequest) -> tuple[Part, ...]:
    """Return all formats of a publication, the one for the request's own branch first.

    Raises:
        ConfigError: two folders in one format, or of different models; or figures of none of them.
        VerificationError: a folder without a receipt that can be read.
        ModelNotFoundError: a folder that is none, or holds no model.
    """
    artifacts = [open_artifact(path) for path in (request.path, *request.also)]
    receipts = [_receipt_of(artifact) for artifact in artifacts]
    layouts = [layout_of(artifact) for artifact in artifacts]
    if request.also:
        _refuse_strangers(artifacts, receipts, layouts)
    measured = _measured(request.quality, receipts)
    parts = []
    for index, (artifact, receipt, layout) in enumerate(zip(artifacts, receipts, layouts, strict=True)):
        own = replace(
            request,
            path=artifact.path,
            also=(),
            revision=layout if index else request.revision,
            quality=request.quality if measured == index else None,
            frontier=None if index else request.frontier,
        )
        parts.append(Part(artifact, receipt, layout, own))
    return tuple(parts)


def layout_of(artifact: Artifact) -> str:
    """Return what the format of a folder calls the way that it packs codes; "safetensors" in full precision."""
    format_ = artifact.format
    if format_ is None:
        return "safetensors"
    return format_.layout_of(artifact.quantization or {}) if isinstance(format_, GroupedFormat) else format_.name


def formats_section(parts: Sequence[Part]) -> str:
    """Return the section of main's card on all formats: a table, and the lines that load each; empty for one format."""
    if len(parts) < 2:
        return ""
    rows = [(part.layout, part.request.revision, *_about(part)) for part in parts]
    header = ("format", "branch", "weight files", "what was lost", "runs in")
    lines = []
    for part in parts:
        stored = stored_in(part.artifact)
        loading = load_lines(stored, part.request.repo_id, part.request.revision) if stored is not None else ()
        fetched = f"hf download {part.request.repo_id} --revision {part.request.revision} --local-dir {part.layout}"
        lines += ["", f"# {part.layout}", *loading, f"{fetched}  # for what takes a folder"]
    return "\n".join([BRANCHES, "", table(header, rows), "", "```", *lines[1:], "```"])


def _about(part: Part) -> tuple[str, str, str]:
    """Return the size of a format's weight files, what was measured of it, and the programs that run it."""
    size = sum((part.artifact.path / name).stat().st_size for name in part.artifact.weight_files)
    quality = part.request.quality
    figures = [] if quality is None else [row for row in quality.figures() if row[1]]
    measured = "; ".join(f"{name} {value}" for name, value in figures) or "not measured"
    stored = stored_in(part.artifact)
    return format_bytes(size), measured, (served_by(stored) if stored else "") or "qtoolkit alone"


def _measured(quality: QualityReport | None, receipts: Sequence[Receipt]) -> int:
    """Return which of some models a report was measured on; the first without a report.

    Raises:
        ConfigError: on none of them.
    """
    if quality is None:
        return 0
    prints = [receipt.weights_fingerprint for receipt in receipts]
    index = prints.index(quality.weights_fingerprint) if quality.weights_fingerprint in prints else 0
    refuse_foreign_figures(quality, receipts[index])
    return index


def _receipt_of(artifact: Artifact) -> Receipt:
    """Return the receipt of a folder, without which it is not published.

    Raises:
        VerificationError: there is none that can be read.
    """
    if artifact.receipt is None:
        reason = artifact.receipt_error or f"{artifact.path} was not made by qtoolkit: it has no qtoolkit.json"
        raise VerificationError(f"{reason}; qt.verify tells what its files alone prove, and nothing is published")
    return artifact.receipt


def _refuse_strangers(artifacts: Sequence[Artifact], receipts: Sequence[Receipt], layouts: Sequence[str]) -> None:
    """Refuse two folders in one format, which would be one branch, and folders that were made of different models."""
    for index, layout in enumerate(layouts):
        if layout in layouts[:index]:
            one, other = artifacts[layouts.index(layout)].path, artifacts[index].path
            raise ConfigError(f"{one} and {other} are both stored as {layout}: a branch is named after its format")
    made_of = [(receipt.source.name, receipt.source.commit_hash) for receipt in receipts]
    for artifact, (name, commit) in zip(artifacts, made_of, strict=True):
        if (name, commit) != made_of[0]:
            shown = f"{name}@{commit}" if commit else name
            first = f"{made_of[0][0]}@{made_of[0][1]}" if made_of[0][1] else made_of[0][0]
            raise ConfigError(
                f"{artifact.path} was made of {shown}, and {artifacts[0].path} of {first}: one repository holds one "
                "model in several formats"
            )
