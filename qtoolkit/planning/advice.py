"""Suggest what would make a job fit: other options, another method, another device; each is planned like the job."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from qtoolkit.errors import QToolkitError
from qtoolkit.methods import MethodConfig, as_call, offered
from qtoolkit.records import Advice, Plan

# More suggestions would hardly be read.
MAX_ADVICE = 4
# Of configs that a program would load, the first is mostly taken.
MAX_READER_ADVICE = 2

# Returns the plan of a config on a device.
Draft = Callable[[MethodConfig, str], Plan]


def advise(plan: Plan, config: MethodConfig, draft: Draft) -> tuple[Advice, ...]:
    """Return changes with which a plan would fit; if none would, the one that needs the least memory.

    None of them makes what the program of the plan would not load.

    Args:
        plan: a plan that does not fit.
        config: its config.
        draft: a function that plans another config or device.
    """
    candidates = []
    for change, other, device in _candidates(config, plan):
        try:
            drafted = draft(other, device)
        except QToolkitError:
            # This method cannot take this model.
            continue
        if drafted.reading is not None and not drafted.reading.loads:
            continue
        candidates.append(_advice(change, drafted))
        if sum(advice.fits for advice in candidates) == MAX_ADVICE:
            break
    fitting = [advice for advice in candidates if advice.fits]
    if fitting or not candidates:
        return tuple(fitting)
    return (min(candidates, key=lambda advice: max(advice.peak_rss, advice.peak_vram)),)


def advise_reader(plan: Plan, configs: Iterable[MethodConfig], draft: Draft) -> tuple[Advice, ...]:
    """Return configs whose results a program loads that would not load this plan's, the smallest changes first.

    Args:
        plan: a plan whose result the program would not load.
        configs: those that it would, as far as their options tell.
        draft: a function that plans another config or device.
    """
    advice = []
    for config in configs:
        with suppress(QToolkitError):  # this method cannot take this model
            drafted = draft(config, plan.device)
            if drafted.reading is None or drafted.reading.loads:
                advice.append(_advice(as_call(config), drafted))
        if len(advice) == MAX_READER_ADVICE:
            break
    return tuple(advice)


def _advice(change: str, drafted: Plan) -> Advice:
    """Return a change with the figures of the plan that has it."""
    return Advice(
        change=change,
        fits=drafted.fits,
        footprint_after=drafted.footprint_after,
        disk_after=drafted.disk_after,
        peak_rss=drafted.peak_rss,
        peak_vram=drafted.peak_vram,
        bits_per_weight=drafted.bits_per_weight,
    )


def _candidates(config: MethodConfig, plan: Plan) -> Iterator[tuple[str, MethodConfig, str]]:
    """Yield what to change, the config with that change, and the device; the smallest changes first."""
    options, device = config.to_dict(), plan.device
    if {"num_samples", "seq_len"} <= set(options):
        seq_len = min(512, options["seq_len"])
        for num_samples in (128, 64, 32):
            smaller = {"num_samples": min(num_samples, options["num_samples"]), "seq_len": seq_len}
            other: MethodConfig = replace(config, **smaller)
            if other != config:
                yield as_call(other), other, device
    simple = [other for _, other in offered(for_=plan.for_reader, calibrated=False) if other.method != config.method]
    for other in simple:
        yield as_call(other), other, device
    if device != "cpu":
        for other in (config, *simple[-1:]):
            yield f"{as_call(other)} with device='cpu'", other, "cpu"
