"""Which model, in which form, for a memory that one has."""

from collections.abc import Iterator

from qtoolkit.errors import ConfigError, QToolkitError
from qtoolkit.methods import as_call, offered
from qtoolkit.models import Checkpoint
from qtoolkit.planning.layers import Modules
from qtoolkit.planning.phases import base_terms, inference, make_work
from qtoolkit.planning.planner import plan_job
from qtoolkit.records import Candidate, Machine, Plan, Recommendation
from qtoolkit.units import parse_bytes

_WORST_OF_4_BITS = 1.25
GOALS = ("quality", "size", "speed")

# Larger models lose less; the order is what counts.
_MEASURED = "measured on SmolLM2-135M, larger models lose less"
_REASONS = {
    "quality": "most parameters among those with 4 bits and more, then the least perplexity (arXiv 2212.09720)",
    "size": "fewest bytes",
    "speed": "fewest bytes read for each token; what is computed in several steps comes last",
}


def recommend(
    checkpoints: list[Checkpoint],
    machine: Machine,
    *,
    device: str,
    memory: int | str | None,
    goal: str,
    rss: int,
    context: int,
) -> Recommendation:
    """Every form of some models, in order.

    Args:
        checkpoints: the models, headers read.
        machine: what they would run on.
        device: where.
        memory: bytes that using one may take, also as text; None for what the machine has.
        goal: one of `GOALS`.
        rss: bytes that this process has resident now.
        context: tokens for which using them is planned.

    Raises:
        ConfigError: a goal that there is not.
    """
    if goal not in GOALS:
        raise ConfigError(f"goal must be one of {', '.join(GOALS)}, got {goal!r:.40}")
    index = int(device.partition(":")[2] or 0)
    there = machine.memory if device == "cpu" else machine.vram[index]
    limit = there if memory is None else parse_bytes(memory)
    found = []
    for checkpoint in checkpoints:
        found.append(_full(checkpoint, machine, device, limit, rss, context))
        found.extend(_quantized(checkpoint, machine, device, limit, rss, context))
    slow = {as_call(config) for offer, config in offered() if not offer.in_one_step}
    fitting = sorted((candidate for candidate in found if candidate.fits), key=lambda entry: _order(entry, goal, slow))
    others = sorted((candidate for candidate in found if not candidate.fits), key=lambda entry: entry.memory)
    return Recommendation(goal, limit, machine.name, (*fitting, *others), _REASONS[goal], (_MEASURED,))


def _order(candidate: Candidate, goal: str, slow: set[str]) -> tuple[float, ...]:
    """Return what is sorted by, the smallest first; `slow` are configs that are computed in several steps."""
    ratio = 1.0 if candidate.config == "full precision" else candidate.perplexity_ratio or 1.01
    if goal == "size":
        return (candidate.footprint, ratio)
    if goal == "speed":
        return (candidate.config in slow, candidate.footprint, ratio)
    # Below 4 bits a smaller model with more bits is better.
    return (ratio > _WORST_OF_4_BITS, -candidate.num_parameters, ratio, candidate.footprint)


def _quantized(
    checkpoint: Checkpoint, machine: Machine, device: str, limit: int, rss: int, context: int
) -> Iterator[Candidate]:
    modules = Modules(checkpoint)
    for offer, config in offered():
        try:
            planned = plan_job(checkpoint, config, device, machine, rss=rss, context=context, modules=modules)
        except QToolkitError:
            # This method cannot take this model.
            continue
        yield _candidate(planned.plan, as_call(config), limit, offer.perplexity_ratio, offer.served_by)


def _candidate(plan: Plan, config: str, limit: int, ratio: float | None, served_by: str) -> Candidate:
    needed = plan.inference.peak_vram or plan.inference.peak_rss
    return Candidate(
        model=plan.source.name,
        config=config,
        num_parameters=plan.source.num_parameters,
        bits_per_weight=plan.bits_per_weight,
        footprint=plan.footprint_after,
        memory=needed,
        disk=plan.disk_after,
        fits=needed <= limit,
        can_be_made=plan.fits,
        perplexity_ratio=ratio,
        quality=_MEASURED if ratio else "",
        served_by=served_by,
    )


def _full(checkpoint: Checkpoint, machine: Machine, device: str, limit: int, rss: int, context: int) -> Candidate:
    """The model as it is."""
    source = checkpoint.record()
    base = base_terms(checkpoint, (), machine, device, rss)
    work = make_work(checkpoint, (), (), source.footprint, device, base, machine.speed)
    needed = inference(checkpoint, work, context, 1)
    taken = needed.peak_vram or needed.peak_rss
    return Candidate(
        model=source.name,
        config="full precision",
        num_parameters=source.num_parameters,
        bits_per_weight=8.0 * source.footprint / source.num_parameters,
        footprint=source.footprint,
        memory=taken,
        disk=source.disk_size or source.footprint,
        fits=taken <= limit,
        can_be_made=True,
        perplexity_ratio=1.0,
        quality="what the others are compared with",
        served_by="transformers, vLLM",
    )
