"""Publish one model as several files beside each other in one branch, of which programs choose one by its type."""

from collections.abc import Iterable
from pathlib import Path

from qtoolkit.checkpoints.filenames import RECEIPT_FILE
from qtoolkit.errors import ConfigError
from qtoolkit.files import sha256_of
from qtoolkit.formats import FileFormat
from qtoolkit.publishing.parts import Branch, Part
from qtoolkit.records import Compared, Frontier, QualityReport
from qtoolkit.records.markdown import escaped, table
from qtoolkit.units import format_bytes

_CONFIG, _CARD = "config.json", "README.md"
_HEADER = ("file", "type", "size", "bits per weight", "KL divergence", "perplexity")


def files_of(branch: Branch) -> dict[str, Path]:
    """Return all files of a branch by the names that they have there.

    The first model's folder is taken as it is. Of each other model come its one file, and what stands beside it under
    the file's own name, its receipt as "model-Q8_0.qtoolkit.json"; its config is left out, since the first one's is
    that of the branch. What both folders hold must be the same.

    Raises:
        ConfigError: two files of one name that are not the same, or a card that would be lost.
    """
    first, *others = branch
    files = {name: first.artifact.path / name for name in first.artifact.names}
    for other in others:
        for name in other.artifact.names:
            file = other.artifact.path / name
            if name == _CARD:
                raise ConfigError(f"{file} is not published, since one card is made for all files: remove it")
            there = _name_beside(other, name)
            if there in files and sha256_of(files[there]) != sha256_of(file):
                raise ConfigError(
                    f"{files[there]} and {file} are not the same, and one branch holds one of that name: make both "
                    "files of the same base with the same versions"
                )
            if name != _CONFIG:
                files.setdefault(there, file)
    return files


def _name_beside(part: Part, name: str) -> str:
    """Return the name that a file of a folder has beside the files of other models."""
    format_ = part.artifact.format
    assert isinstance(format_, FileFormat)
    if name == _CONFIG:
        return ""
    if name not in (RECEIPT_FILE, *format_.own_file_names):
        return name
    return f"{_file_name(part).removesuffix(format_.suffix)}.{name}"


def files_section(branch: Branch) -> str:
    """Return the section of a card on all files of its branch: a table, and what is dominated; empty for one file."""
    if len(branch) < 2:
        return ""
    first = escaped(_file_name(branch[0]))
    about = (
        f"Each file is the whole model; a program takes one by its type. What is not in this table is told of {first}, "
        "to which `config.json` belongs."
    )
    parts = [about, "", table(_HEADER, map(_row, branch)), "", *_verdicts(branch)]
    return "\n".join(["## Files in this repository", "", *parts])


def _file_name(part: Part) -> str:
    """Return the name of a model's one file."""
    return next(iter(part.artifact.weight_files), "")


def _row(part: Part) -> tuple[str, ...]:
    """Return the line of a file in the table."""
    figures = dict(row for quality in part.request.reports for row in quality.figures())
    loss, perplexity = figures.get("KL divergence, mean"), figures.get("perplexity")
    bits = f"{part.receipt.memory.bits_per_weight:.2f}"
    size = format_bytes(part.artifact.weight_bytes)
    return (_file_name(part), part.layout, size, bits, loss or "not measured", perplexity or "not measured")


def _verdicts(branch: Branch) -> Iterable[str]:
    """Return which files are dominated, each by what, as far as they were measured on one text against one base."""
    measured = [
        (part, quality) for part in branch for quality in part.request.reports if quality.kl_divergence is not None
    ]
    if len(measured) < 2:
        return []
    if len({(quality.text_fingerprint, quality.base) for _, quality in measured}) > 1:
        return ["They were measured on different texts, so that their figures are not compared."]
    frontier = _frontier(measured)
    found = [(one, frontier.dominator(one)) for one in frontier.results]
    lines = [
        f"{one.label} is dominated: {better.label} is no larger and loses no more."
        for one, better in found
        if better is not None
    ]
    return lines or ["None of the measured files is dominated: each larger one loses less."]


def _frontier(measured: list[tuple[Part, QualityReport]]) -> Frontier:
    """Return files with what was measured of them, as a frontier compares recipes."""
    results = tuple(
        Compared(
            label=escaped(_file_name(part)),
            method=part.receipt.method,
            settings=part.receipt.settings,
            device=part.receipt.device,
            disk=part.artifact.weight_bytes,
            quality=quality,
        )
        for part, quality in measured
    )
    part, quality = measured[0]
    return Frontier(part.receipt.source, quality.text, quality.text_fingerprint, results)
