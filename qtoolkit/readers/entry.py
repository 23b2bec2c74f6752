"""Define the rows of the reader contract: programs, what they load, and under which conditions."""

from dataclasses import dataclass
from typing import Any

from qtoolkit.readers.stored import Stored
from qtoolkit.readers.versions import version_key


@dataclass(frozen=True)
class Program:
    """A program that loads models.

    Attributes:
        name: its short name, by which it is asked for: "vllm".
        title: its name, "vLLM".
        version: the version that the table was checked with; empty where none has a number.
        source: what names the formats that it loads.
        refuses: why it does not load a format that the table has no row for.
        is_rare: whether a card names it only where it loads the model, since nobody would expect it.
        runs: whether it runs what it loads; false where it trains adapters on it.
        line: what loads a repository of the Hub, "{repo}", with what names a branch, "{revision}", in brackets, and the
            class of transformers that opens it, "{auto_class}"; empty where no such line is known.
    """

    name: str
    title: str
    version: str
    source: str
    refuses: str = "it does not list the format"
    is_rare: bool = False
    runs: bool = True
    line: str = ""


@dataclass(frozen=True)
class Limit:
    """A condition of a program on how a model is stored.

    Attributes:
        field: a field of `Stored`.
        allowed: the values that it may have; of a field that holds several, each of them.
        why: what is not loaded, a clause; "{got}" stands for the values that are not allowed.
        remedy: what to do instead; "{whole}" stands for what would make units whole; may be empty.
        is_kept: whether the remedy helps a model that is quantized already; otherwise it names options of a recipe.
        layouts: of the models that it is for; empty for all.
    """

    field: str
    allowed: tuple[Any, ...]
    why: str
    remedy: str = ""
    is_kept: bool = False
    layouts: tuple[str, ...] = ()

    def broken_by(self, stored: Stored) -> str:
        """Return why the model is not loaded; empty where the condition is met."""
        if self.layouts and stored.layout not in self.layouts:
            return ""
        value = getattr(stored, self.field)
        got = [one for one in (value if isinstance(value, tuple) else (value,)) if one not in self.allowed]
        return self.why.format(got=" and ".join(map(str, got))) if got else ""

    def remedy_for(self, stored: Stored) -> str:
        """Return what to do instead for a model that does not meet it; empty where nothing is known."""
        return self.remedy.format(whole=stored.whole)


@dataclass(frozen=True)
class Since:
    """The first version of a program that loads models of a row, or some of them; read in its wheels.

    Attributes:
        version: that version; empty where it was not found out.
        without: the last version that does not; empty where the first of all does.
        found: what tells it: a file, or a text in one, that the first has and the other has not.
        field: a field of `Stored`; empty for all models of the row.
        values: those of the field that it is for; of a field that holds several, for a model with one of them.
    """

    version: str
    without: str = ""
    found: str = ""
    field: str = ""
    values: tuple[Any, ...] = ()

    def concerns(self, stored: Stored) -> bool:
        """Return whether it is for a model that is stored so."""
        value = getattr(stored, self.field) if self.field else None
        own = value if isinstance(value, tuple) else (value,)
        return not self.field or any(one in self.values for one in own)


@dataclass(frozen=True)
class Entry:
    """A row: a program, a format, and what it says of it.

    Attributes:
        reader: name of the program.
        format: name of the format; empty for a model in full precision.
        input_type: what inputs are rounded to in the models that the row is for; empty for those that round none.
        source: the file and line, the address or the test that says so.
        since: the first versions that load it; empty where none was found out: it was tried with that of the program.
        until: the first version that loads it no more; empty where there is none.
        needs: packages that it needs beside itself, in the version of the program.
        limits: all of them must be met.
        refused: why it loads no model of this format; empty where it does.
        remedy: what to do where it loads none.
        note: what to know where it does.
        kept_whole: what a split of matrices between GPUs must not cut, as for `note_on_split`.
    """

    reader: str
    format: str
    source: str
    input_type: str = ""
    since: tuple[Since, ...] = ()
    until: str = ""
    needs: str = ""
    limits: tuple[Limit, ...] = ()
    refused: str = ""
    remedy: str = ""
    note: str = ""
    kept_whole: tuple[str, ...] = ()

    def since_of(self, stored: Stored) -> str:
        """Return the first version that loads a model of the row; empty where it was not found out."""
        versions = [since.version for since in self.since if since.concerns(stored)]
        return "" if "" in versions else max(versions, key=version_key, default="")
