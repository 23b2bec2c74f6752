"""Link the pages of docs/ from the panels, by the repository's address of pyproject.toml."""

from collections.abc import Sequence
from importlib import metadata

# As pip calls it.
_PACKAGE = "qtoolkit-notebook"
# Panel -> the page that tells more, and what it is about.
PAGES = {
    "model": ("panels.md", "these panels"),
    "plan": ("will-it-fit.md", "will it fit"),
    "quantize": ("methods.md", "methods"),
    "compare": ("what-was-lost.md", "what was lost"),
    "convert": ("readers.md", "which program loads what"),
    "publish": ("publishing.md", "publishing"),
}


def docs_links(shown: Sequence[str]) -> str:
    """Return HTML with a link for each panel that is shown; empty where the package is not installed, only imported."""
    try:
        urls = metadata.metadata(_PACKAGE).get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return ""
    repository = next((url for label, _, url in (one.partition(", ") for one in urls) if label == "Repository"), "")
    links = (
        f'<a href="{repository}/blob/main/docs/{file}">{about}</a>' for file, about in (PAGES[name] for name in shown)
    )
    return f'<div class="qtk-text">Read more: {", ".join(links)}</div>' if repository else ""
