"""What would make a job fit: other settings, another method, another place; each planned like the job itself."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from qtoolkit.errors import QToolkitError
from qtoolkit.methods import MethodConfig, as_call, offered
from qtoolkit.records import Advice, Plan

# As many as one reads.
MAX_ADVICE = 4

# Makes the plan of a config on a device.
Draft = Callable[[MethodConfig, str], Plan]


def advise(plan: Plan, config: MethodConfig, draft: Draft) -> tuple[Advice, ...]:
    """Changes with which a plan that does not fit would fit; where none does, the one that comes nearest.

    Args:
        plan: what was asked for.
        config: its config.
        draft: plans another config or device.
    """
    found = []
    for change, other, device in _candidates(config, plan.device):
        try:
            drafted = draft(other, device)
        except QToolkitError:
            # A method that cannot take this model is no advice.
            continue
        found.append(_advice(change, drafted))
        if sum(advice.fits for advice in found) == MAX_ADVICE:
            break
    fitting = [advice for advice in found if advice.fits]
    if fitting or not found:
        return tuple(fitting)
    return (min(found, key=lambda advice: max(advice.peak_rss, advice.peak_vram)),)


def _candidates(config: MethodConfig, device: str) -> Iterator[tuple[str, MethodConfig, str]]:
    """What to change, the config then, and the device; the smallest changes first."""
    known = config.to_dict()
    if {"num_samples", "seq_len"} <= set(known):
        for samples, seq_len in ((128, 512), (64, 512), (32, 512)):
            smaller = {"num_samples": min(samples, known["num_samples"]), "seq_len": min(seq_len, known["seq_len"])}
            other: MethodConfig = replace(config, **smaller)
            if other != config:
                yield as_call(other), other, device
    simple = [other for _, other in offered(calibrated=False) if other.method != config.method]
    for other in simple:
        yield as_call(other), other, device
    if device != "cpu":
        for other in (config, *simple[-1:]):
            yield f"{as_call(other)} with device='cpu'", other, "cpu"


def _advice(change: str, plan: Plan) -> Advice:
    return Advice(
        change=change,
        fits=plan.fits,
        footprint_after=plan.footprint_after,
        disk_after=plan.disk_after,
        peak_rss=plan.peak_rss,
        peak_vram=plan.peak_vram,
        bits_per_weight=plan.bits_per_weight,
    )
