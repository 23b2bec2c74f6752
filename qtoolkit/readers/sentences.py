"""Make every sentence on who reads a model from the reader contract: for cards, checks and docs/readers.md."""

import re
from collections.abc import Iterable

from qtoolkit.readers.contract import readers_of, titles
from qtoolkit.readers.entry import Entry, Program
from qtoolkit.readers.programs import OWN, PROGRAMS
from qtoolkit.readers.stored import Stored
from qtoolkit.readers.table import COLUMNS, ENTRIES
from qtoolkit.readers.versions import version_key
from qtoolkit.records import Reading


def card_lines(stored: Stored) -> tuple[tuple[str, str, str], ...]:
    """Return the lines of a card's table: a program, whether it loads the model, and what to know.

    None where the contract does not know the format.
    """
    rare = {program.name for program in PROGRAMS if program.is_rare}
    shown = (one for one in readers_of(stored) if one.reader != OWN and (one.loads or one.reader not in rare))
    return tuple((one.name, "yes" if one.loads else "no", one.remarks_on_saved) for one in shown)


def load_lines(
    stored: Stored, repo: str, revision: str, *, auto_class: str = "AutoModelForCausalLM"
) -> tuple[str, ...]:
    """Return the lines with which programs load a model from a branch of a repository on the Hub.

    Args:
        stored: how the model is stored.
        repo: "org/name".
        revision: the branch; "main" is not named.
        auto_class: the class of transformers that opens the model.

    Example:
        >>> load_lines(Stored(format="mlx", bits=(4,), group_sizes=(64,)), "me/tiny", "mlx")
        ('mlx_lm.load("me/tiny", revision="mlx")',)
    """
    loading = {reading.reader for reading in readers_of(stored) if reading.loads}
    lines = [program.line for program in PROGRAMS if program.line and program.name in loading]
    named = (re.sub(r"\[(.*?)\]", "" if revision == "main" else r"\1", line) for line in lines)
    return tuple(line.format(repo=repo, revision=revision, auto_class=auto_class) for line in named)


def summary(readings: Iterable[Reading]) -> str:
    """Return one line: who loads a model, and who does not."""
    readings = tuple(readings)
    loading, refusing = ([one for one in readings if one.loads is loads] for loads in (True, False))
    return f"should load in {titles(loading)}{f'; not in {titles(refusing)}' if refusing else ''}"


def result_line(readings: Iterable[Reading]) -> str:
    """Return one line on a result that is planned or made: which well-known programs load it, and which do not.

    Args:
        readings: what all programs say of it; none where the table does not know its format.

    Example:
        "loads in transformers, vLLM, SGLang, by their sources; not in mlx-lm, llama.cpp: method gguf is for llama.cpp"
    """
    common = {program.title for program in PROGRAMS if not program.is_rare and program.name != OWN}
    known = [one for one in readings if one.title in common]
    if not known:
        return ""
    loading, refusing = ([one for one in known if one.loads is loads] for loads in (True, False))
    told = f"loads in {titles(loading)}, by their sources" if loading else "loads in no other program"
    files = {one.reader for one in readers_of(Stored(format="gguf")) if one.loads}
    takers = [one for one in refusing if one.reader in files and not one.title.startswith("transformers")]
    way = f": method gguf is for {titles(takers)}" if takers else ""
    return f"{told}; not in {titles(refusing)}{way}" if refusing else told


def page_table() -> str:
    """Return the table of docs/readers.md: a line for each program, a column for each format, in Markdown."""
    header = f"| | {' | '.join(title for _, _, title in COLUMNS)} |"
    lines = [header, "|---" * (len(COLUMNS) + 1) + "|"]
    rows = {(entry.reader, entry.format, entry.input_type): entry for entry in ENTRIES}
    for program in PROGRAMS:
        name = f"{program.title} {program.version}".rstrip()
        cells = [_cell(rows.get((program.name, one, kind)), program) for one, kind, _ in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(entry: Entry | None, program: Program) -> str:
    """Return a cell of that table: no, yes, or under which conditions, and from which version on."""
    if entry is None:
        return "no"
    if entry.refused:
        return f"no: {entry.remedy}" if entry.remedy else "no"
    bits = next((limit.allowed for limit in entry.limits if limit.field == "bits"), ())
    words = {
        "sym": "symmetric",
        "desc_act": "no desc_act",
        "widths": "one width",
        "embeddings": "no embeddings",
        "outside_tiles": "sizes in multiples of 128 x 64 or 64 x 128",
    }
    spanned = f"{bits[0]} to {bits[-1]}" if bits == tuple(range(2, 9)) else ", ".join(map(str, bits))
    parts = [f"{spanned} bits"] if bits else []
    parts += [
        words[limit.field]
        for limit in entry.limits
        if limit.field in words and limit.allowed in ((True,), (False,), (1,), (None,), ())
    ]
    return "; ".join([*(parts or ["yes"]), *_versions(entry, program)])


def _versions(entry: Entry, program: Program) -> list[str]:
    """Return from which version on a program loads some models of a row, and all of them; none if not known."""
    first = next((since.version for since in entry.since if not since.field), "")
    if not first:
        return []
    # Where it was not found out, the version that was tried is the first that is known.
    later = [since.version or program.version for since in entry.since if since.field]
    return [f"from {first}, all of it from {max(later, key=version_key)}" if later else f"from {first}"]
