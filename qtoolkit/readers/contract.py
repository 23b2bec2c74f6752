"""Ask the reader contract which programs load a model as it is stored, and why the others do not."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.readers.entry import Entry, Program
from qtoolkit.readers.stored import Stored
from qtoolkit.readers.table import ENTRIES, OWN, PROGRAMS
from qtoolkit.records import Reading

READER_NAMES = tuple(program.name for program in PROGRAMS)
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
    "experts": "",
    "plain_experts": False,
}


def _letters(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(filter(str.isalnum, name.lower()))


_BY_LETTERS = {_letters(name): name for name in READER_NAMES}


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
    """Return what one program says.

    Raises:
        ConfigError: the contract knows no such program, or not the format.
    """
    name = check_reader(reader)
    found = next((one for one in readings if one.reader == name), None)
    if found is None:
        raise ConfigError(f"for_={reader!r}: which programs read this format is not known: leave for_ out")
    return found


def check_reader(reader: str | None) -> str | None:
    """Return the name of a program as the table has it, however it is spelled.

    Raises:
        ConfigError: the contract knows no such program; the message names all.

    >>> check_reader("vLLM"), check_reader("LM Studio"), check_reader("Llama CPP"), check_reader("transformers 4")
    ('vllm', 'lm-studio', 'llama.cpp', 'transformers4')
    """
    if reader is None:
        return None
    found = _BY_LETTERS.get(_letters(reader)) if isinstance(reader, str) else None
    if found is None:
        raise ConfigError(f"for_ must be one of {', '.join(READER_NAMES)}, got {reader!r:.40}")
    return found


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
    refusing = {entry.reader for entry in entries if any(limit.field == "mixed_units" for limit in entry.limits)}
    return tuple(program.title for program in PROGRAMS if program.name in refusing)


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
    broken = [(why, limit.remedy) for limit in entry.limits if (why := limit.broken_by(stored))]
    whys = [entry.refused] if entry.refused else [why for why, _ in broken]
    remedies = [entry.remedy] if entry.refused else list(dict.fromkeys(remedy for _, remedy in broken if remedy))
    return Reading(
        program.name,
        program.title,
        program.version,
        not whys,
        since=entry.since,
        needs=entry.needs,
        why=", ".join(whys),
        remedy="; ".join(remedies),
        note=entry.note,
        source=entry.source,
    )
