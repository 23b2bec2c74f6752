"""Ask the reader contract which programs load a model as it is stored, and why the others do not."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.readers.asked import asked_version, check_reader
from qtoolkit.readers.entry import Entry, Program
from qtoolkit.readers.programs import OWN, PROGRAMS
from qtoolkit.readers.stored import Stored
from qtoolkit.readers.table import ENTRIES
from qtoolkit.readers.tensor_parallel import note_on_split
from qtoolkit.readers.versions import version_key
from qtoolkit.records import Reading

# What a model is when nothing about it costs it a reader.
_USUAL: dict[str, Any] = {
    "bits": (4,),
    "group_sizes": (128,),
    "sym": True,
    "desc_act": False,
    "layout": "",
    "embeddings": None,
    "mixed_units": (),
    "misnamed_units": (),
    "left": (),
    "architecture": "",
    "experts": "",
    "plain_experts": False,
    "hidden_experts": False,
    "own_experts": False,
    "own_linear": "",
    "split_experts": "",
    "matrices": (),
    "heads": (),
    "given_values": (),
}


def readers_of(stored: Stored) -> tuple[Reading, ...]:
    """Return what each program of the contract says of a model, in the order of the table.

    Args:
        stored: how the model is stored.

    Returns:
        One reading for each program; none where the table does not know the format.
    """
    kind = (stored.format, stored.input_type)
    rows = {entry.reader: entry for entry in ENTRIES if (entry.format, entry.input_type) == kind}
    return tuple(_reading(program, rows.get(program.name), stored) for program in PROGRAMS) if rows else ()


def reading_of(reader: str, readings: Iterable[Reading]) -> Reading:
    """Return what one program says, in the version that is asked for.

    Args:
        reader: the program, as for `check_reader`: "vllm" for the version of the table, or "vllm==0.10".
        readings: what all programs say, by the table.

    Raises:
        ConfigError: the contract knows no such program, or not the format.
    """
    name, version = asked_version(str(check_reader(reader)))
    found = next((one for one in readings if one.reader == name), None)
    if found is None:
        raise ConfigError(f"for_={reader!r}: which programs read this format is not known: leave for_ out")
    return _in_version(found, version) if version else found


def _in_version(reading: Reading, version: str) -> Reading:
    """Return what a program says in one version of it, as far as the table tells."""
    asked = version_key(version)
    own = replace(reading, version=version)
    if reading.until and version_key(reading.since) <= asked < version_key(reading.until):
        return replace(own, loads=True, why="", remedy="", is_recipe=False, note=f"from {reading.until} on it does not")
    if not reading.loads:
        return own
    if reading.since and asked < version_key(reading.since):
        why = f"{reading.since} is the first version that is known to load it"
        return replace(own, loads=False, why=why, remedy="update it")
    if not reading.since and asked < version_key(reading.version):
        why = f"which older versions than {reading.version} load it is not known"
        return replace(own, loads=False, why=why, remedy="leave the version out")
    return own


def titles(readings: Iterable[Reading]) -> str:
    """Return the names of programs in words, "transformers, vLLM"; of transformers alone one age: "transformers 4"."""
    readings = tuple(readings)
    ages = Counter(reading.title for reading in readings)
    every = Counter(program.title for program in PROGRAMS)
    names = (
        one.title if ages[one.title] == every[one.title] else f"{one.title} {one.version.partition('.')[0]}"
        for one in readings
    )
    return ", ".join(dict.fromkeys(names))


def running(readings: Iterable[Reading]) -> tuple[Reading, ...]:
    """Return the readings of other programs that load a model and run it."""
    others = {program.name for program in PROGRAMS if program.runs and program.name != OWN}
    return tuple(one for one in readings if one.loads and one.reader in others)


def served_by(stored: Stored) -> str:
    """Return the programs other than qtoolkit that run a model as it is stored: "transformers, vLLM, SGLang"."""
    return titles(running(readers_of(stored)))


def refusing_mixed_units(format_: str) -> tuple[str, ...]:
    """Return the names of the programs that join layers of a format, and refuse those that differ (`fused_unit`)."""
    entries = (entry for entry in ENTRIES if entry.format == format_)
    refusing = {entry.reader for entry in entries if any(limit.field == "unlike_units" for limit in entry.limits)}
    return tuple(program.title for program in PROGRAMS if program.name in refusing)


def asks_for_first_values(format_: str) -> bool:
    """Return whether a program's row asks which layers of a format the model's class gives first values to."""
    limits = (limit for entry in ENTRIES if entry.format == format_ for limit in entry.limits)
    return any(limit.field == "layers_given_values" for limit in limits)


def lost_readers(stored: Stored) -> str:
    """Return which programs do not load a model that would load a usual one of its format, and why, in one clause.

    Usual are 4 bits, symmetric, in groups of 128. Example: "vLLM (GPTQ of 3 bits: it takes 4 and 8)"; empty for none.
    """
    usual = {one.reader for one in running(readers_of(replace(stored, **_USUAL)))}
    lost = [one for one in readers_of(stored) if one.reader in usual and not one.loads]
    whys = dict.fromkeys(one.why for one in lost)
    return "; ".join(f"{titles(one for one in lost if one.why == why)} ({why})" for why in whys)


def _reading(program: Program, entry: Entry | None, stored: Stored) -> Reading:
    """Return what one program says of a model, by its row of the table."""
    if entry is None:
        return Reading(program.name, program.title, program.version, False, why=program.refuses, source=program.source)
    broken = [] if entry.refused else [limit for limit in entry.limits if limit.broken_by(stored)]
    whys = [entry.refused] if entry.refused else [limit.broken_by(stored) for limit in broken]
    ways = [entry.remedy] if entry.refused else [limit.remedy_for(stored) for limit in broken]
    return Reading(
        program.name,
        program.title,
        program.version,
        not whys,
        since=entry.since_of(stored),
        until=entry.until,
        needs=entry.needs,
        why=", ".join(whys),
        remedy="; ".join(filter(None, dict.fromkeys(ways))),
        note="; ".join(filter(None, (entry.note, note_on_split(stored, entry.kept_whole)))),
        source=entry.source,
        is_recipe=any(limit.remedy_for(stored) and not limit.is_kept for limit in broken),
    )
