"""Recommend which model to run, and with which config, in a given amount of memory."""

from collections.abc import Iterator
from dataclasses import dataclass

from qtoolkit.errors import QToolkitError
from qtoolkit.methods import MethodConfig, as_call, offered
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.planning.layers import Modules
from qtoolkit.planning.phases import base_terms, memory_to_use
from qtoolkit.planning.planner import plan_job
from qtoolkit.planning.result_readers import in_a_loaded_format
from qtoolkit.readers import Stored, readers_of, reading_of, running, served_by, titles
from qtoolkit.records import FULL_PRECISION, Candidate, Machine, Plan, Recommendation
from qtoolkit.units import bits_per_weight, parse_bytes

_UNQUANTIZED = Stored(format="")
# Down to which size of a code a larger model is better than a smaller one with more bits.
_FEWEST_BITS = 4

# Figures of a small model: their order holds for larger ones, which lose less.
_MEASURED = "measured on SmolLM2-135M, larger models lose less"
_REASONS = {
    "quality": "most parameters among those with 4 bits and more, then the least perplexity (arXiv 2212.09720)",
    "size": "fewest bytes",
    "speed": "fewest bytes read for each token; what is computed in several steps comes last",
}


@dataclass(frozen=True)
class _Ranked:
    """Hold a candidate with what decides its place.

    Attributes:
        candidate: one model with one config.
        in_one_step: as in `Offer`.
        bits: of a code.
    """

    candidate: Candidate
    in_one_step: bool = True
    bits: int = 16


def recommend(
    checkpoints: list[Checkpoint],
    machine: Machine,
    *,
    device: str,
    memory: int | str | None,
    goal: str,
    rss: int,
    context: int,
    for_: str | None = None,
) -> Recommendation:
    """Return every config of some models, the best for a goal first.

    Args:
        checkpoints: the models, their headers read.
        machine: the machine that they would run on.
        device: the device that they would run on, "cpu" or "cuda:0".
        memory: bytes that using a model may take, or a text such as "8 GB"; None for what the machine has.
        goal: "quality", "size" or "speed".
        rss: resident bytes of this process now.
        context: tokens for which using them is planned.
        for_: the program that shall load the choice, which leaves out what it does not load; None for any.
    """
    index = int(device.partition(":")[2] or 0)
    available = machine.memory if device == "cpu" else machine.vram[index]
    limit = available if memory is None else parse_bytes(memory)
    ranked: list[_Ranked] = []
    for checkpoint in checkpoints:
        if for_ is None or reading_of(for_, readers_of(_UNQUANTIZED)).loads:
            ranked.append(_Ranked(_unquantized(checkpoint, machine, device, limit, rss, context)))
        ranked.extend(_quantized(checkpoint, machine, device, limit, rss, context, for_))
    changed = f"what {for_} does not load is given in a format that it loads, or left out"
    notes = (_MEASURED, changed) if for_ is not None and ranked else (_MEASURED,)
    # What fits comes first, in the order of the goal; then the rest, the least memory first.
    ranked.sort(key=lambda one: (0, *_order(one, goal)) if one.candidate.fits else (1, one.candidate.memory))
    return Recommendation(goal, limit, machine.name, tuple(one.candidate for one in ranked), _REASONS[goal], notes)


def _order(one: _Ranked, goal: str) -> tuple[float, ...]:
    """Return the key by which candidates are sorted."""
    candidate = one.candidate
    ratio = 1.0 if candidate.config == FULL_PRECISION else candidate.perplexity_ratio or 1.01
    if goal == "size":
        return (candidate.footprint, ratio)
    if goal == "speed":
        return (not one.in_one_step, candidate.footprint, ratio)
    # A smaller model with more bits is better than a larger one with fewer than 4.
    return (one.bits < _FEWEST_BITS, -candidate.num_parameters, ratio, candidate.footprint)


def _quantized(
    checkpoint: Checkpoint, machine: Machine, device: str, limit: int, rss: int, context: int, for_: str | None
) -> Iterator[_Ranked]:
    """Yield the candidates of a model with each config that methods offer."""
    modules = Modules(checkpoint)

    def planned(config: MethodConfig) -> Plan | None:
        """Return the plan of a config; None for a method that cannot take this model."""
        try:
            return plan_job(
                checkpoint, config, device, machine, rss=rss, context=context, modules=modules, for_=for_
            ).plan
        except QToolkitError:
            return None

    for offer, as_offered in offered(for_=for_):
        config, plan = as_offered, planned(as_offered)
        if plan is not None and plan.reading is not None and not plan.reading.loads:
            other = in_a_loaded_format(plan, as_offered)
            config, plan = other or as_offered, None if other is None else planned(other)
        if plan is None:
            continue
        memory = plan.inference.peak_vram or plan.inference.peak_rss
        candidate = Candidate(
            model=plan.source.name,
            config=as_call(config),
            num_parameters=plan.source.num_parameters,
            bits_per_weight=plan.bits_per_weight,
            footprint=plan.footprint_after,
            memory=memory,
            disk=plan.disk_after,
            fits=memory <= limit,
            can_be_made=plan.fits,
            perplexity_ratio=offer.perplexity_ratio,
            quality=_measured(config) if offer.perplexity_ratio else "",
            served_by=titles(running(plan.readings)),
        )
        yield _Ranked(candidate, offer.in_one_step, getattr(config, "bits", _FEWEST_BITS))


def _measured(config: MethodConfig) -> str:
    """Return where the figure of an offer is from; of one that rounds inputs, that these were rounded too."""
    return f"{_MEASURED}; inputs rounded to {config.input_type}" if config.input_type else _MEASURED


def _unquantized(
    checkpoint: Checkpoint, machine: Machine, device: str, limit: int, rss: int, context: int
) -> Candidate:
    """Return the candidate of a model in full precision."""
    source = checkpoint.record()
    base = base_terms(checkpoint, (), machine, device, rss)
    memory = memory_to_use(checkpoint, source.footprint, device, context, base)
    return Candidate(
        model=source.name,
        config=FULL_PRECISION,
        num_parameters=source.num_parameters,
        bits_per_weight=bits_per_weight(source.footprint, source.num_parameters),
        footprint=source.footprint,
        memory=memory,
        disk=source.disk_size or source.footprint,
        fits=memory <= limit,
        can_be_made=True,
        perplexity_ratio=1.0,
        quality="what the others are compared with",
        served_by=served_by(_UNQUANTIZED),
    )
