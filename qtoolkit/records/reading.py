"""Record whether a program loads a quantized model, since which version, and why not."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row


@dataclass(frozen=True)
class Reading(Record):
    """Say whether one program loads a model as it is stored.

    Attributes:
        reader: the program's short name, "vllm".
        title: its name, "vLLM".
        version: the version whose sources were read, or that was run, or the one that was asked for; empty where none
            has a number.
        loads: whether it loads the model.
        since: the first version that is known to load it; empty where only `version` was looked at.
        until: the first version that loads it no more; mostly empty.
        needs: packages that it needs beside itself; mostly empty.
        why: why it does not load the model; empty where it does.
        remedy: what to do where it does not; may be empty.
        note: what to know where it does; mostly empty.
        source: the file, the address or the test that says so.
        is_recipe: whether the remedy names options of a recipe, which a model that is quantized already no longer has.
    """

    added_fields: ClassVar[frozenset[str]] = frozenset({"until", "is_recipe"})

    reader: str
    title: str
    version: str
    loads: bool
    since: str = ""
    needs: str = ""
    why: str = ""
    remedy: str = ""
    note: str = ""
    source: str = ""
    until: str = ""
    is_recipe: bool = False

    @property
    def name(self) -> str:
        """Return the program with its version, "vLLM 0.33.0"."""
        return f"{self.title} {self.version}".rstrip()

    @property
    def reason(self) -> str:
        """Return why it does not load the model, and what to do, in one clause."""
        return f"{self.why}: {self.remedy}" if self.remedy else self.why

    @property
    def remarks(self) -> str:
        """Return what to know: why it does not load the model and what to do, or since when and with what it does."""
        needs = f"needs {self.needs}" if self.needs else ""
        since = f"from {self.since} on" if self.since else ""
        return "; ".join(filter(None, (since, needs, self.note))) if self.loads else self.reason

    @property
    def remarks_on_saved(self) -> str:
        """Return what to know of a model that is quantized already."""
        if self.loads or not self.is_recipe:
            return self.remarks
        return f"{self.why}; quantized anew, {self.remedy}"

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.name, "loads it" if self.loads else "does not load it", self.remarks),)
