"""Write the repository's address, `Repository` in pyproject.toml, into every page that names it: `make address`."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Who may name it; tests/test_address.py finds it nowhere else.
PAGES = ("README.md", "docs/*.md", "notebooks/*.ipynb")
# The repository by its page or its clone, and a file of it as Colab opens it.
NAMED = re.compile(r"(https://github\.com/|https://colab\.research\.google\.com/github/)[\w.-]+/qtoolkit\b")


def address() -> str:
    """Return the repository's address, `[project.urls] Repository`."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["urls"]["Repository"])


def with_address(text: str, repository: str) -> str:
    """Return a page's text with the address of this repository.

    Example:
        >>> with_address("git+https://github.com/OWNER/qtoolkit", "https://github.com/me/qtoolkit")
        'git+https://github.com/me/qtoolkit'
    """
    place = repository.removeprefix("https://github.com/")
    return NAMED.sub(lambda match: match[1] + place, text)


def main() -> None:
    """Store all pages."""
    for path in sorted(page for pattern in PAGES for page in ROOT.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        path.write_text(with_address(text, address()), encoding="utf-8")


if __name__ == "__main__":
    main()
