"""List the addresses that pages and lessons name, and when each was seen: `python -m scripts.external_links`.

Writes docs/external-links.md anew. `--ask` asks each address; what does not answer keeps its day, or "not seen".
"""

import argparse
import re
import urllib.request
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/external-links.md"
SOURCES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "notebooks/[0-9]*.ipynb")
# The address in a link, or between angle brackets; what a notebook stores ends with its quote.
ADDRESS = re.compile(r"(?:\]\(|<)(https?://[^\s)>\\\"]+)")
ROW = re.compile(r"^\| <(\S+)> \| (.*?) \| ", re.MULTILINE)
NOT_SEEN = "not seen"
HEAD = """# External links

Addresses that pages and lessons link to, and when each last answered `python -m scripts.external_links --ask`.
"not seen" are those that could not be reached where this list was made.

| address | last seen | on |
|---|---|---|
"""


def named() -> dict[str, list[str]]:
    """Return each address and the files that name it."""
    found: dict[str, list[str]] = {}
    for path in sorted(file for pattern in SOURCES for file in ROOT.glob(pattern)):
        if path == PAGE:
            continue
        for address in dict.fromkeys(ADDRESS.findall(path.read_text(encoding="utf-8"))):
            found.setdefault(address, []).append(str(path.relative_to(ROOT)))
    return dict(sorted(found.items()))


def days(page: str) -> dict[str, str]:
    """Return the day that a stored list has for each address."""
    return dict(ROW.findall(page))


def answers(address: str) -> bool:
    """Return whether an address answers within ten seconds."""
    request = urllib.request.Request(address, headers={"User-Agent": "qtoolkit-docs"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return bool(answer.status < 400)
    except OSError:
        return False


def page(known: dict[str, str], asked: Iterable[str] = ()) -> str:
    """Return the list.

    Args:
        known: the day of each address that was seen before.
        asked: addresses that answered today.
    """
    today = dict.fromkeys(asked, datetime.now(UTC).date().isoformat())
    rows = (
        f"| <{address}> | {today.get(address, known.get(address, NOT_SEEN))} | {', '.join(files)} |"
        for address, files in named().items()
    )
    return HEAD + "\n".join(rows) + "\n"


def main() -> None:
    """Store the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ask", action="store_true")
    asked = filter(answers, named()) if parser.parse_args().ask else ()
    known = days(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    PAGE.write_text(page(known, asked), encoding="utf-8")


if __name__ == "__main__":
    main()
