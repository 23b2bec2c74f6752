"""Show what `make coverage` found as a page, and tell where it is worse than what is stored."""

from collections.abc import Iterator, Mapping

from scripts.coverage_cells import BUILT, METHODS, Cell

# From best to worst.
_ORDER = ("done", "refused", "wrong", "crash", "not built")
_MARKS = {"done": "", "refused": "refused", "wrong": "**wrong**", "crash": "**crash**"}
# Percent; a share that only rounding changes is no worse.
_SAME = 0.05
# Gemma 3n's tower is one of timm; a run without that tells nothing of it.
_LACKS_PACKAGE = "ImportError"
_ABOUT = (
    "Made by `make coverage`: a small random model of each type that transformers knows, from its own config "
    "(`scripts/small_models.py`), is quantized, saved, loaded and compared by each method. A cell is the share of "
    "the weights of linear layers and experts that are quantized, in percent. Where nothing else stands in it, the "
    "predicted footprint was that measured, to the byte; the loaded model gave the same logits as the one that was "
    "saved, whose error is within that of the method; and NF4 and int8 have the codes that transformers' own "
    "quantization has."
)
Cells = Mapping[str, Cell]


def worse(name: str, before: Cells, after: Cells) -> Iterator[str]:
    """Yield a line for each cell of a type that is worse than before: its verdict, or its share of weights."""
    for method, cell in after.items():
        old = before.get(method)
        if old is None:
            continue
        if _LACKS_PACKAGE in cell.reason:
            continue
        verdict = _ORDER.index(cell.verdict) > _ORDER.index(old.verdict)
        share = old.share is not None and cell.share is not None and cell.share < old.share - _SAME
        if verdict or share:
            yield f"{name}, {method}: {cell}; before {old}"


def page(table: Mapping[str, Cells]) -> str:
    """Return the page docs/coverage.md."""
    built = {name: cells for name, cells in sorted(table.items()) if cells[BUILT].verdict == "done"}
    lines = [
        "# Coverage",
        "",
        _ABOUT,
        "",
        f"| type | {' | '.join(METHODS)} |",
        f"|---|{'---|' * len(METHODS)}",
    ]
    lines += [
        f"| {name} | {' | '.join(_shown(cells.get(method)) for method in METHODS)} |" for name, cells in built.items()
    ]
    sections = {
        "Refused by the plan": ("refused",),
        "Wrong, or an error": ("wrong", "crash"),
        "Done: why others stay, and what was not compared": ("done",),
    }
    for title, verdicts in sections.items():
        lines += ["", f"## {title}", "", *_listed(built, verdicts)]
    others = [f"- {name}: {_plain(cells[BUILT].reason)}" for name, cells in sorted(table.items()) if name not in built]
    lines += ["", "## Not built at random from its config", "", *(others or ["none"])]
    return "\n".join(lines) + "\n"


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    share = "" if cell.share is None else f"{cell.share:.1f}"
    return f"{share} {_MARKS[cell.verdict]}".strip()


def _listed(table: Mapping[str, Cells], verdicts: tuple[str, ...]) -> list[str]:
    """Return a line for each reason that types were given, with the methods and types."""
    reasons: dict[str, list[str]] = {}
    for name, cells in table.items():
        for method, cell in cells.items():
            if cell.verdict in verdicts and cell.reason:
                reasons.setdefault(f"{name}: {_plain(cell.reason)}", []).append(method)
    return [f"- {reason} ({', '.join(methods)})" for reason, methods in reasons.items()] or ["none"]


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in text)
