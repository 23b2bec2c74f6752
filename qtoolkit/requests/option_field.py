"""Make options fields of frozen dataclasses: each is written once, with its help, and its value is checked."""

import operator
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType
from typing import Any, get_args

from qtoolkit.errors import ConfigError


def option(
    default: Any,
    *,
    help: str,
    choices: tuple[Any, ...] | None = None,
    unit: str = "",
    per_layer: bool = False,
    empty: str = "",
    metavar: str = "",
    least: int | None = None,
    secret: bool = False,
    absent: Any = MISSING,
    by_place: bool = False,
    is_file: bool = False,
) -> Any:
    """Make a field that describes itself: signatures, magics, panels, TOML and the docs are derived from it.

    Args:
        default: its value when nobody gives one; a dict is made anew for each object.
        help: one clause without a full stop.
        choices: the values that it may have; None for any value of its type.
        unit: what the value counts, "bits per weight".
        per_layer: whether `rules` of a method's config may give single layers another value.
        empty: what None stands for, or what False does.
        metavar: what a magic's help calls the value, "DIR"; empty for the unit, or "NAME".
        least: the smallest number that it may be; None where it is no number, or where its class checks it.
        secret: whether the value is left out of the `repr` and of pickles.
        absent: of an option that was added later, the value that does what was done before: what a file that lacks the
            option means.
        by_place: whether it may also be given without its name, as the first argument.
        is_file: whether it names a file of this machine: receipts have its name without folders, and a result that is
            kept is used again while the file is the same.
    """
    described = describe(help, metavar or unit.upper() or "NAME")
    metadata = {**described, "choices": choices, "unit": unit, "per_layer": per_layer, "empty": empty, "least": least}
    if is_file:
        metadata["is_file"] = True
    if absent is not MISSING:
        metadata["absent"] = absent
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, repr=not secret, metadata=metadata, kw_only=False if by_place else MISSING)


def describe(help: str, metavar: str = "") -> Mapping[str, Any]:
    """Return the metadata of a field that has no default: `model: str = field(metadata=describe("..."))`."""
    return {"help": help, "metavar": metavar}


@dataclass(frozen=True, kw_only=True)
class Request:
    """Check the values of a verb's options when they are given; the base of all requests.

    Whole numbers of another library, such as numpy's, become Python's own. A pickle holds no secret.

    Raises:
        ConfigError: a value that its field cannot have.
    """

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            choices = one.metadata.get("choices")
            kinds = get_args(one.type) or (one.type,)
            if choices is not None and value not in choices:
                raise ConfigError(f"{one.name} must be one of {', '.join(choices)}, got {value!r:.40}")
            if bool in kinds and value not in (True, False):
                raise ConfigError(f"{one.name} must be True or False, got {value!r:.40}")
            if int in kinds and str not in kinds and (value is not None or NoneType not in kinds):
                number = whole_number(one.name, value, one.metadata["least"])
                # The dataclass is frozen.
                object.__setattr__(self, one.name, number)

    def __getstate__(self) -> dict[str, Any]:
        secrets = {one.name: None for one in fields(self) if not one.repr}
        return vars(self) | secrets


def whole_number(name: str, value: Any, least: int | None) -> int:
    """Return an option's value as an `int`.

    Raises:
        ConfigError: it is no whole number, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number, got {value!r:.40}")
    if least is not None and number < least:
        raise ConfigError(f"{name} must be at least {least}, got {number}")
    return number
