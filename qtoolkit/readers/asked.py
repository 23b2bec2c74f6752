"""Understand which program is asked for, and which version of it, however both are spelled."""

import re

from qtoolkit.errors import ConfigError, did_you_mean
from qtoolkit.readers.programs import PROGRAMS
from qtoolkit.readers.versions import version_key

READER_NAMES = tuple(program.name for program in PROGRAMS)
_WITH_VERSION = re.compile(r"([^=<>~!]*?)(?:\s*==\s*|\s+)v?(\d+(?:\.\d+)*(?:\.?post\d+)?)\s*")


def _letters(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(filter(str.isalnum, name.lower()))


_BY_LETTERS = {_letters(program.name): program for program in PROGRAMS}


def check_reader(reader: str | None) -> str | None:
    """Return the name of a program as the table has it, however it is spelled; with "==" and a version if one is given.

    Raises:
        ConfigError: the contract knows no such program, or no versions of it; the message names all.

    >>> check_reader("vLLM"), check_reader("LM Studio"), check_reader("Llama CPP"), check_reader("transformers 4")
    ('vllm', 'lm-studio', 'llama.cpp', 'transformers4')
    >>> check_reader("vLLM 0.10"), check_reader("transformers==4.57.1")
    ('vllm==0.10', 'transformers4==4.57.1')
    """
    if reader is None:
        return None
    text = str(reader)
    found = _BY_LETTERS.get(_letters(text))
    if found is not None:
        return found.name
    parts = _WITH_VERSION.fullmatch(text)
    found = _BY_LETTERS.get(_letters(parts[1])) if parts else None
    if parts is None or found is None:
        hint = did_you_mean(text, READER_NAMES)
        near = f": {hint.rstrip()}" if hint else ""
        raise ConfigError(f"for_ must be one of {', '.join(READER_NAMES)}, got {reader!r:.40}{near}")
    if not found.version:
        raise ConfigError(f"for_={reader!r:.40}: versions of {found.title} are not told apart: give {found.name!r}")
    return f"{_of_that_age(found.title, parts[2])}=={parts[2]}"


def asked_version(reader: str) -> tuple[str, str]:
    """Return the name and the version of a program as `check_reader` returns it; an empty version for any."""
    name, _, version = reader.partition("==")
    return name, version


def _of_that_age(title: str, version: str) -> str:
    """Return the name of the program of a title that has this version: transformers has rows for two ages."""
    ages = sorted((version_key(one.version)[:1], one.name) for one in PROGRAMS if one.title == title)
    return next((name for age, name in reversed(ages) if age <= version_key(version)[:1]), ages[0][1])
