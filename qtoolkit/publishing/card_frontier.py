"""Put a model's frontier on its card: a picture beside the card, and the table of what was measured."""

from dataclasses import replace

from qtoolkit.errors import ConfigError
from qtoolkit.publishing.lineage import is_in_memory
from qtoolkit.publishing.patterns import last_part, without_paths
from qtoolkit.records import Frontier, Receipt
from qtoolkit.records.markdown import escaped

PICTURE = "frontier.svg"


def refuse_foreign_frontier(frontier: Frontier, receipt: Receipt) -> None:
    """Refuse a frontier of another model than the one that this model was made of.

    Raises:
        ConfigError: another name or commit, one in memory, or nothing was measured.
    """
    measured, source = frontier.source, receipt.source
    again = "measure that one: qt.frontier(BASE, ...)"
    if not frontier.frontier:
        raise ConfigError("frontier holds no recipe that was measured: leave it out")
    if is_in_memory(receipt):
        raise ConfigError(f"frontier is of {measured.name!r}, and this model was made from one in memory: leave it out")
    if last_part(measured.name) != last_part(source.name):
        raise ConfigError(f"frontier is of {measured.name!r}, and the base is {source.name!r}: {again}")
    commits = {measured.commit_hash, source.commit_hash} - {None}
    if len(commits) > 1:
        raise ConfigError(
            f"frontier is of commit {measured.commit_hash} of {source.name}, and this model was made from "
            f"{source.commit_hash}: {again}"
        )


def frontier_files(frontier: Frontier | None) -> dict[str, bytes]:
    """Return the file that the card shows, by name; none without a frontier."""
    return {} if frontier is None else {PICTURE: _shown(frontier).svg().encode()}


def frontier_section(frontier: Frontier | None) -> str:
    """Return picture and table in Markdown, without the folders of this machine; empty without a frontier."""
    if frontier is None:
        return ""
    shown = _shown(frontier)
    return f"![{escaped(shown.alternative())}]({PICTURE})\n\n{without_paths(shown.to_markdown())}"


def _shown(frontier: Frontier) -> Frontier:
    """Return a frontier whose names are without the folders of this machine."""
    results = tuple(replace(one, label=without_paths(one.label)) for one in frontier.results)
    source = replace(frontier.source, name=without_paths(frontier.source.name))
    return replace(frontier, source=source, text=last_part(frontier.text), results=results)
