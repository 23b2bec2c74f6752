"""Whether a saved model is what it says, check by check."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row

_STATES = {True: "passed", False: "FAILED", None: "not checked"}


@dataclass(frozen=True)
class Check(Record):
    """One check.

    Attributes:
        name: what was looked at, "file hashes".
        passed: whether it holds; None where it could not be looked at.
        value: what was seen.
        note: what to do, or why it was not checked.
    """

    schema_version: ClassVar[int] = 1

    name: str
    passed: bool | None
    value: str
    note: str = ""

    def rows(self) -> tuple[Row, ...]:
        seen = "; ".join(filter(None, (self.value, self.note)))
        return (Row(self.name, _STATES[self.passed], seen),)


OnCheck = Callable[[Check], None]


@dataclass(frozen=True)
class Verification(Record):
    """All checks of a saved model.

    Attributes:
        name: the folder's own name.
        checks: each check, in the order in which they were made.
        recalled: whether the model ran earlier in this session, before a `publish` of the same unchanged files.
        network_open: why the process that ran the model could have reached a network; empty where it could not, or
            where none ran.
        sockets_open: likewise, why it could have reached sockets of other programs of this machine.
    """

    schema_version: ClassVar[int] = 1
    added_fields: ClassVar[frozenset[str]] = frozenset({"network_open", "sockets_open"})

    name: str
    checks: tuple[Check, ...]
    recalled: bool = False
    network_open: str = ""
    sockets_open: str = ""

    @property
    def passed(self) -> bool:
        """Whether no check failed; what could not be checked is in `unchecked`."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def unchecked(self) -> tuple[Check, ...]:
        """What could not be looked at, each with the reason."""
        return tuple(check for check in self.checks if check.passed is None)

    def summary(self) -> tuple[Row, ...]:
        """The verdict, and how the model ran where that is worth a word: what a publication shows of it."""
        counts = f"{len(self.checks) - len(self.failed) - len(self.unchecked)} passed, {len(self.failed)} failed"
        verdict = Row(self.name, "passed" if self.passed else "FAILED", f"{counts}, {len(self.unchecked)} not checked")
        ran = (Row("the model ran", "earlier in this session", "no file has changed since"),) if self.recalled else ()
        network = (Row("network", "not blocked", self.network_open),) if self.network_open else ()
        local = (Row("local sockets", "not blocked", self.sockets_open),) if self.sockets_open else ()
        return (verdict, *ran, *network, *local)

    def rows(self) -> tuple[Row, ...]:
        return (*self.summary(), *(row for check in self.checks for row in check.rows()))
