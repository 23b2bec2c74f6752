"""Describe one model in several formats: a branch for each, and a section of main's card that says which there are."""

from collections.abc import Sequence

from qtoolkit.checkpoints.model_class import TEXT_CLASS, auto_class_of
from qtoolkit.publishing.contract_check import stored_in
from qtoolkit.publishing.parts import Part
from qtoolkit.readers import BRANCHES, Stored, load_lines, served_by
from qtoolkit.records.markdown import table
from qtoolkit.units import format_bytes


def formats_section(parts: Sequence[Part]) -> str:
    """Return the section of main's card on all formats: a table, and the lines that load each; empty for one format.

    Args:
        parts: the first one of each branch.
    """
    if len(parts) < 2:
        return ""
    rows = [(part.layout, part.request.revision, *_about(part)) for part in parts]
    header = ("format", "branch", "weight files", "what was lost", "runs in")
    lines = []
    for part in parts:
        stored = stored_in(part.artifact)
        loading = _load_lines(part, stored) if stored is not None else ()
        fetched = f"hf download {part.request.repo_id} --revision {part.request.revision} --local-dir {part.layout}"
        lines += ["", f"# {part.layout}", *loading, f"{fetched}  # for what takes a folder"]
    parts_of_text = [BRANCHES, "", table(header, rows), "", "```", *lines[1:], "```"]
    return "\n".join(["## Formats in this repository", "", *parts_of_text])


def _load_lines(part: Part, stored: Stored) -> tuple[str, ...]:
    """Return the lines with which programs load a format from its branch."""
    auto_class = auto_class_of(part.artifact.config) or TEXT_CLASS
    return load_lines(stored, part.request.repo_id, part.request.revision, auto_class=auto_class)


def _about(part: Part) -> tuple[str, str, str]:
    """Return the size of a format's weight files, what was measured of it, and the programs that run it."""
    figures = [row for quality in part.request.reports for row in quality.figures() if row[1]]
    measured = "; ".join(f"{name} {value}" for name, value in figures) or "not measured"
    stored = stored_in(part.artifact)
    served = (served_by(stored) if stored else "") or "qtoolkit alone"
    return format_bytes(part.artifact.weight_bytes), measured, served
