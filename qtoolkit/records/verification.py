"""Record the checks of a saved model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records import html
from qtoolkit.records.base import Record, Row

# Notes and ends of values of checks that hold as far as something was read, and not as far as it was run or compared.
NONE_RUN = "by their sources: none was run"
NOT_COMPARED = "its files are not on this machine, and were not compared"
_STATES = {True: "passed", False: html.FAILED, None: "not checked"}


@dataclass(frozen=True)
class Check(Record):
    """Hold the result of one check.

    Attributes:
        name: what was checked, "file hashes".
        passed: whether it holds; None if it could not be checked.
        value: what was observed.
        note: what to do, or why it was not checked.
    """

    name: str
    passed: bool | None
    value: str
    note: str = ""

    @property
    def state(self) -> str:
        """Return in words whether it holds: "expected" by a table, "agrees" by names, where nothing was run or read."""
        if self.passed and self.note == NONE_RUN:
            return "expected"
        return "agrees" if self.passed and self.value.endswith(NOT_COMPARED) else _STATES[self.passed]

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.name, self.state, "; ".join(filter(None, (self.value, self.note)))),)


OnCheck = Callable[[Check], None]


@dataclass(frozen=True)
class Verification(Record):
    """Hold all checks of a saved model.

    Attributes:
        name: the folder's own name.
        checks: each check, in the order in which they were made.
        recalled: whether the checks that run the model were made earlier in this session, of the same unchanged files.
        network_open: why the process that ran the model could have reached a network; empty if it could not, or if
            none ran.
        sockets_open: likewise, why it could have reached sockets of other programs on this machine.
    """

    added_fields: ClassVar[frozenset[str]] = frozenset({"network_open", "sockets_open"})

    name: str
    checks: tuple[Check, ...]
    recalled: bool = False
    network_open: str = ""
    sockets_open: str = ""

    @property
    def passed(self) -> bool:
        """Return whether no check failed; what could not be checked is in `unchecked`."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """Return the checks that failed."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def unchecked(self) -> tuple[Check, ...]:
        """Return the checks that could not be made, each with the reason in its note."""
        return tuple(check for check in self.checks if check.passed is None)

    def summary(self) -> tuple[Row, ...]:
        """Return rows with the verdict, and how the model was run if that needs a remark; shown by publications too."""
        counts = f"{len(self.checks) - len(self.failed) - len(self.unchecked)} passed, {len(self.failed)} failed"
        verdict = Row(
            self.name, "passed" if self.passed else html.FAILED, f"{counts}, {len(self.unchecked)} not checked"
        )
        ran = (Row("the model ran", "earlier in this session", "no file has changed since"),) if self.recalled else ()
        network = (Row("network", "not blocked", self.network_open),) if self.network_open else ()
        local = (Row("local sockets", "not blocked", self.sockets_open),) if self.sockets_open else ()
        return (verdict, *ran, *network, *local)

    def headline(self) -> str:
        others = ", ".join(check.name for check in self.unchecked)
        left = f"; not made: {others}." if others else "."
        if self.passed:
            made = len(self.checks) - len(self.unchecked)
            counted = f"{made} of {len(self.checks)}" if others else f"all {made}"
            return f"{self.name}: {counted} checks passed{left}"
        names = ", ".join(check.name for check in self.failed)
        counted = f"✖ {len(self.failed)} of {len(self.checks)} checks of {self.name} FAILED: {names}"
        return f"{counted}{left} It cannot be published until they pass."

    def picture(self) -> str:
        lines = (f"{check.name}: {'; '.join(filter(None, (check.value, check.note)))}" for check in self.failed)
        return html.list_of("what failed", lines) if self.failed else ""

    def rows(self) -> tuple[Row, ...]:
        return (*self.summary(), *(row for check in self.checks for row in check.rows()))
