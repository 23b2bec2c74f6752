"""Make the paragraphs of docs/readers.md from the reader contract, for `store_docs.py`."""

from qtoolkit.readers import page_table
from qtoolkit.readers.entry import Entry, Limit
from qtoolkit.readers.matrices import TILES
from qtoolkit.readers.programs import PROGRAMS
from qtoolkit.readers.table import ENTRIES


def page_limits() -> str:
    """Return what docs/readers.md tells of the limits on sizes and on layers that servers join."""
    rows = {entry.reader: entry for entry in ENTRIES if entry.format == "gptq"}
    by_field = {
        field: [one.title for one in PROGRAMS if one.name in rows and _limit(rows[one.name], field)]
        for field in ("unlike_units", "outside_tiles")
    }
    readers: dict[str, dict[str, None]] = {}
    for one in PROGRAMS:
        if one.name in rows and (sizes := _listed(_limit(rows[one.name], "group_sizes"))):
            readers.setdefault(sizes, {})[one.title] = None
    groups = [f"{' and '.join(names)} {sizes}" for sizes, names in readers.items()]
    tiles = " or ".join(f"{rows_} x {columns}" for rows_, columns in TILES)
    fused, strict = (" and ".join(by_field[field]) for field in ("unlike_units", "outside_tiles"))
    return (
        f"{fused} multiply q, k and v as one matrix, and gate and up: these must have the same bits. Groups of GPTQ "
        f"(-1: one scale an output) are {'; '.join(groups)}. The kernel of "
        f"{strict} takes matrices, q, k and v as one, of outputs x inputs in multiples of {tiles}, which leaves out "
        "SmolLM2-135M; vLLM fills others up. Between several GPUs a group of inputs, or a block of float8, must not be "
        "cut: the note of a reading tells on which of 2, 4 and 8 it would be."
    )


def _limit(entry: Entry, field: str) -> Limit | None:
    """Return the limit of a row on a field; None without one."""
    return next((limit for limit in entry.limits if limit.field == field), None)


def _listed(limit: Limit | None) -> str:
    """Return the values that a limit allows, in words; empty without one."""
    return ", ".join(map(str, limit.allowed)) if limit and limit.allowed else ""


MADE = {"table": page_table, "limits": page_limits}
