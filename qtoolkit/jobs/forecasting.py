"""Plan a quantization, and recommend one: what a job would need, from headers alone."""

from qtoolkit.files import absolute, current_folder
from qtoolkit.jobs.bit_budget import meet_target, needs_measuring, refuse_without_weights
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.quantizing import refuse_quantized
from qtoolkit.measure.cpu import num_cores
from qtoolkit.measure.guard import explained
from qtoolkit.measure.host import this_machine
from qtoolkit.measure.peak import resident_memory
from qtoolkit.measure.speed import measure_speed
from qtoolkit.measure.worker_rates import measure_rates
from qtoolkit.methods import get_method, resolve_config
from qtoolkit.models.output_checks import refuse_own_source
from qtoolkit.planning.device import resolve_device
from qtoolkit.planning.machines import find_profile
from qtoolkit.planning.planner import plan_with_advice
from qtoolkit.planning.recommend import recommend
from qtoolkit.planning.shared_out import with_workers
from qtoolkit.records import Machine, Plan, Recommendation, Speed, ignore_progress
from qtoolkit.requests import ModelSource, PlanRequest, RecommendRequest
from qtoolkit.stream.staging import check_output

_ADVICE = "free some, or raise that limit"


@explained("planning", _ADVICE)
def run_plan(request: PlanRequest) -> Plan:
    """Plan a quantization, as `qtoolkit.plan` describes."""
    refuse_quantized(request.model)
    config = resolve_config(request.config)
    if request.workers is not None:
        get_method(config.method).refuse_workers(config, option="workers")
    folder = request.folder or absolute("output")
    if request.folder is not None:
        refuse_own_source(request.model, folder)
        check_output(folder, overwrite=True)
    profile = _profile(request.machine)
    checkpoint = open_source(request.model, request, headers_only=True)
    if needs_measuring(config):
        refuse_without_weights(checkpoint)
        checkpoint = open_source(request.model, request)
    device = resolve_device(request.device, profile)
    # The speed of a GPU is not measured.
    machine = profile or this_machine(folder, measure_speed(folder) if device == "cpu" else Speed())
    rss = resident_memory()
    met = meet_target(
        checkpoint,
        config,
        device,
        machine,
        rss=rss,
        on_progress=ignore_progress,
        measuring_device=resolve_device("auto") if profile else device,
    )
    planned = plan_with_advice(
        checkpoint.with_notes(*met.notes),
        met.config,
        device,
        machine,
        rss=rss,
        context=request.context,
        batch_size=request.batch_size,
        measures=met.num_measured,
        for_=request.for_,
    )
    if request.workers is None:
        return planned.plan
    # What a profile says of a machine does not tell how fast one of its cores is.
    return with_workers(
        planned,
        request.workers,
        None if profile or device != "cpu" else measure_rates(),
        cores=0 if profile else num_cores(),
    )


@explained("planning", _ADVICE)
def run_recommendation(request: RecommendRequest) -> Recommendation:
    """Recommend a model and a method, as `qtoolkit.recommend` describes."""
    profile = _profile(request.machine)
    models = request.model if isinstance(request.model, list | tuple) else [request.model]
    for model in models:
        refuse_quantized(model)
    source = ModelSource(revision=request.revision, token=request.token)
    return recommend(
        [open_source(model, source, headers_only=True) for model in models],
        profile or this_machine(current_folder(), Speed()),
        device=resolve_device(request.device, profile),
        memory=request.memory,
        goal=request.goal,
        rss=resident_memory(),
        context=request.context,
        for_=request.for_,
    )


def _profile(machine: str | Machine | None) -> Machine | None:
    """Return the machine to plan for; None for this one."""
    return find_profile(machine) if isinstance(machine, str) else machine
