"""Hooks of mkdocs for `make docs`: what the site has beside docs/, that is notebooks and the reference."""

import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
# Lessons and their pictures; the notebook for Colab is a form.
NOTEBOOKS = ("notebooks/[0-9]*.ipynb", "notebooks/pictures/*")
REFERENCE = ROOT / "build/reference.md"


# Before mkdocs-jupyter looks at the files, of which it makes pages.
@event_priority(100)
def on_files(files: Any, config: Any) -> Any:
    """Add what lies outside of docs/."""
    for pattern in NOTEBOOKS:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File(str(path.relative_to(ROOT)), str(ROOT), config.site_dir, use_directory_urls=True))
    files.append(File.generated(config, "reference.md", content=REFERENCE.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links of a page of docs/ to the notebooks, which the site has beside it."""
    return re.sub(r"\]\(\.\./notebooks/", "](notebooks/", markdown)
