"""Tell which programs will load the result of a plan, refuse it for one that will not, and find a config for it."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.methods import MethodConfig, as_call, available_methods, get_method, offered, stored_of
from qtoolkit.readers import Stored, lost_readers, readers_of, reading_of, running, titles
from qtoolkit.records import Plan

# Values with which more programs load a result, tried one by one and then together.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bits": (4, 8),
    "sym": (True,),
    "desc_act": (False,),
    "group_size": (128,),
    "embeddings": (None,),
    "rules": ({},),
}


def with_readers(
    plan: Plan, config: MethodConfig, for_: str | None, *, heads: tuple[int, ...], given_values: tuple[str, ...]
) -> Plan:
    """Return a plan that says which programs will load its result.

    Args:
        plan: a plan.
        config: its config, fitted.
        for_: the program that shall load it, with or without a version; None for none in particular.
        heads: of the model, as `heads_of`.
        given_values: the layers whose weight the model's class gives first values to as it is opened.

    Raises:
        ConfigError: the contract does not know the program, or does not know the format.
    """
    bits = {layer.name: layer.bits for layer in plan.layers}
    stored = replace(_stored_of(plan, config, bits), heads=heads, given_values=given_values)
    readings = readers_of(stored)
    if for_ is not None:
        asked = reading_of(for_, readings)
        readings = tuple(asked if one.reader == asked.reader else one for one in readings)
    lost = lost_readers(stored)
    notes = (*plan.notes, f"not loaded by {lost}") if lost else plan.notes
    return replace(plan, notes=notes, readings=readings, for_reader=for_ or "")


def note_on_nobody(plan: Plan, config: MethodConfig) -> str:
    """Return a line on a result that no other program runs, with the nearest config whose result one does.

    Args:
        plan: with the readings of its result.
        config: its config.

    Returns:
        Empty where a program runs the result, and where none is known to read the format.
    """
    if not plan.readings or running(plan.readings):
        return ""
    names = {layer.name: 0 for layer in plan.layers}
    readings = ((other, running(readers_of(_stored_of(plan, other, names)))) for other in _changed(config))
    found = next(((other, programs) for other, programs in readings if programs), None)
    near = f": {as_call(found[0])} makes one for {titles(found[1])}" if found else ""
    return f"no other program runs the result{near}"


def loaded_configs(plan: Plan, config: MethodConfig) -> Iterator[MethodConfig]:
    """Yield configs whose results the program of a plan would load: this one with one change, all changes, others."""
    names = {layer.name: 0 for layer in plan.layers}
    for other in _changed(config):
        readings = readers_of(_stored_of(plan, other, names))
        if readings and reading_of(plan.for_reader, readings).loads:
            yield other


def in_a_loaded_format(plan: Plan, config: MethodConfig) -> MethodConfig | None:
    """Return the same config in a format that the program of a plan loads; None where there is none."""
    given = config.as_given().to_dict()
    for other in loaded_configs(plan, config):
        if other.method == config.method and {**other.to_dict(), "format": config.format} == given:
            return other
    return None


def _stored_of(plan: Plan, config: MethodConfig, bits: Mapping[str, int]) -> Stored:
    """Return how the layers of a plan will be stored by a config, whose bits they have where `bits` has 0."""
    # Programs may take any module with a matrix for a quantized layer.
    left = [module.name for module in plan.skipped if len(module.shape) == 2]
    shapes = {layer.name: layer.shape for layer in plan.layers}
    source = plan.source
    return stored_of(config, bits, left, shapes=shapes, dtype=source.dtype, architecture=source.architecture)


def refuse_unread(plan: Plan) -> None:
    """Refuse a job whose result the program that it is made for would not load.

    Raises:
        ConfigError: it would not; the message says why, and what to do.
    """
    reading = plan.reading
    if reading is None or reading.loads:
        return
    other = next((advice.change for advice in plan.advice), "")
    step = (
        f"give {other}, or leave for_ out"
        if other
        else f"{reading.remedy or 'name another program'}, or leave for_ out"
    )
    raise ConfigError(f"for_={plan.for_reader!r}: {reading.name} would not load the result ({reading.why}): {step}")


def _changed(config: MethodConfig) -> Iterator[MethodConfig]:
    """Yield a config with other values of one option, then of all, what methods offer, and those that write files."""
    given = config.as_given()
    choices = {field.name: field.metadata.get("choices") for field in fields(config)}
    values = {name: plain for name, plain in _PLAIN.items() if name in choices}
    values |= {"format": choices.get("format") or ()}
    everything: dict[str, Any] = {}
    for name in ("format", *_PLAIN):
        for value in values.get(name, ()):
            if value != getattr(given, name):
                yield from _made(given, {name: value})
                if name != "format":
                    everything.setdefault(name, value)
    yield from _made(given, everything)
    yield from (other for _, other in offered(for_=None) if other.method != config.method)
    # Programs that read files of their own load nothing else.
    methods = map(get_method, available_methods())
    yield from (method.config_class() for method in methods if method.writes_file and method.name != config.method)


def _made(config: MethodConfig, changes: dict[str, Any]) -> Iterator[MethodConfig]:
    """Yield a config with changes, if these go together."""
    try:
        yield replace(config, **changes)
    except ConfigError:
        return
