"""Choose the recipes that a frontier measures: each is planned from headers, and kept if it is near what is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qtoolkit.errors import ConfigError, QToolkitError, oneline
from qtoolkit.files import current_folder
from qtoolkit.jobs.bit_budget import needs_measuring
from qtoolkit.jobs.candidates import Candidate, check_candidate, read_candidates
from qtoolkit.jobs.comparing import Subject
from qtoolkit.measure.disk import disk_size
from qtoolkit.measure.host import this_machine
from qtoolkit.measure.peak import resident_memory
from qtoolkit.methods import recipes
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.planning.layers import Modules
from qtoolkit.planning.phases import memory_to_use
from qtoolkit.planning.planner import plan_job
from qtoolkit.records import Machine, Speed, Unmeasured
from qtoolkit.requests import FrontierRequest
from qtoolkit.units import format_bytes

# Of each size that is wanted, so many recipes are measured, which differ from it by no more than such a share.
_NEAREST = 4
_NEAR = 0.25


@dataclass(frozen=True)
class Chosen:
    """What of a frontier's recipes is measured.

    Attributes:
        candidates: what is measured.
        unmeasured: the others, each with its reason.
    """

    candidates: tuple[Candidate, ...]
    unmeasured: tuple[Unmeasured, ...]


@dataclass(frozen=True)
class _Planned:
    """A recipe, with the bytes of its weight files and those that using it takes; None if only the work tells them."""

    candidate: Candidate
    disk: int | None
    memory: int | None

    def left_out(self, reason: str) -> Unmeasured:
        return Unmeasured(self.candidate.label, self.disk, self.memory, reason)


def read_recipes(configs: Any) -> tuple[Candidate, ...]:
    """Read the recipes that a frontier is given; None for those that the methods name.

    Raises:
        ConfigError: as `read_candidates`.
    """
    return read_candidates(recipes() if configs is None else configs)


def choose_recipes(request: FrontierRequest, subject: Subject, candidates: Sequence[Candidate]) -> Chosen:
    """Choose which recipes are measured: those that this machine can make, and that the request's sizes ask for.

    With an executor it is not known what its machines can make.

    Raises:
        ConfigError: none is left; the message names the smallest.
    """
    local = request.executor is None
    machine = this_machine(current_folder(), Speed()) if local else None
    modules = Modules(subject.checkpoint)
    planned: list[_Planned] = []
    unmeasured: list[Unmeasured] = []
    for one in candidates:
        try:
            check_candidate(one, subject.checkpoint, subject.device, local=local)
            recipe, problems = _plan(one, subject, machine, modules)
        except QToolkitError as error:
            unmeasured.append(Unmeasured(one.label, reason=oneline(error)))
            continue
        if problems:
            unmeasured.append(recipe.left_out(f"does not fit this machine: {'; '.join(problems)}"))
        else:
            planned.append(recipe)
    wanted = _near(planned, request.wanted_sizes) if request.sizes else _within(planned, request.memory_limit)
    if not wanted:
        raise ConfigError(_nothing_left(request, planned, unmeasured))
    unmeasured += [recipe.left_out(_reason(request, recipe)) for recipe in planned if recipe not in wanted]
    return Chosen(tuple(recipe.candidate for recipe in wanted), tuple(unmeasured))


def _plan(
    candidate: Candidate, subject: Subject, machine: Machine | None, modules: Modules
) -> tuple[_Planned, tuple[str, ...]]:
    """Return a recipe with its sizes, and why it does not fit the machine."""
    checkpoint, device = subject.checkpoint, subject.device
    config = candidate.config
    if config is None:
        return _Planned(candidate, *_sizes_as_it_is(candidate, checkpoint, device)), ()
    rss = resident_memory()
    plan = plan_job(checkpoint, config, device, machine, rss=rss, saves=False, modules=modules).plan
    if needs_measuring(config):
        return _Planned(candidate, None, None), plan.problems
    memory = memory_to_use(checkpoint, plan.footprint_after, device)
    return _Planned(candidate, plan.disk_after, memory), plan.problems


def _sizes_as_it_is(candidate: Candidate, checkpoint: Checkpoint, device: str) -> tuple[int, int]:
    """Return the bytes of the weight files of a path or of the model itself, and the bytes that using it takes."""
    source = checkpoint.record()
    if candidate.path is None:
        return source.disk_size or source.footprint, memory_to_use(checkpoint, source.footprint, device)
    size = disk_size(candidate.path)
    return size, memory_to_use(checkpoint, size, device)


def _within(planned: Sequence[_Planned], limit: int | None) -> list[_Planned]:
    """Return the recipes that take no more memory than the limit."""
    return [one for one in planned if limit is None or one.memory is None or one.memory <= limit]


def _near(planned: Sequence[_Planned], sizes: Sequence[int]) -> list[_Planned]:
    """Return the recipes nearest to each size, in their own order."""
    nearest: list[_Planned] = []
    for size in sizes:
        close = [one for one in planned if one.disk is not None and abs(one.disk - size) <= _NEAR * size]
        nearest += sorted(close, key=lambda one: _distance(one, size))[:_NEAREST]
    return [one for one in planned if one.disk is None or one in nearest]


def _distance(recipe: _Planned, size: int) -> int:
    assert recipe.disk is not None
    return abs(recipe.disk - size)


def _reason(request: FrontierRequest, recipe: _Planned) -> str:
    """Return why a recipe that can be made is not measured."""
    if not request.sizes:
        return f"takes more than {format_bytes(request.memory_limit or 0)} to use"
    size = min(request.wanted_sizes, key=lambda size: _distance(recipe, size))
    if _distance(recipe, size) > _NEAR * size:
        return f"differs by more than {100 * _NEAR:g} % from every size that is wanted"
    return f"{_NEAREST} others come nearer to {format_bytes(size)}"


def _nothing_left(request: FrontierRequest, planned: Sequence[_Planned], unmeasured: Sequence[Unmeasured]) -> str:
    """Return the message that nothing is left to measure, with the smallest recipe and what to do."""
    known = [one for one in planned if one.disk is not None]
    if not known:
        one = unmeasured[0]
        return f"none of {len(unmeasured)} recipes can be made here; {one.label}: {one.reason}"
    if not request.sizes:
        small = min(known, key=lambda one: one.memory or 0)
        needed = format_bytes(small.memory or 0)
        return (
            f"memory={request.memory!r} holds none of {len(known)} recipes: the smallest, {small.candidate.label}, "
            f"takes {needed} to use; give more, or take a smaller model"
        )
    # All of these have a size.
    by_size = sorted(known, key=lambda one: one.disk or 0)
    small = by_size[0]
    large = by_size[-1]
    return (
        f"sizes={list(request.sizes)} are near none of {len(known)} recipes: their files have from "
        f"{format_bytes(small.disk or 0)} ({small.candidate.label}) to {format_bytes(large.disk or 0)} "
        f"({large.candidate.label}); give sizes between those, or take another model"
    )
