"""Plan a job that workers share out: what each needs, what goes through the folder that all share, and how long."""

import re
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

from qtoolkit.checkpoints.layer_values import largest
from qtoolkit.measure.malloc import GIVE_BACK_EVERY
from qtoolkit.measure.worker_rates import Rates
from qtoolkit.methods import get_method
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.optional import RESIDENT_BYTES
from qtoolkit.planning.phases import FIRST_USE, FRESH_PROCESS, make_job_shape
from qtoolkit.planning.planner import PlannedJob
from qtoolkit.planning.worker_times import (
    Group,
    Layout,
    SharedJob,
    enough_workers,
    job_seconds,
    kept_bytes,
    shared_bytes,
    spread_seconds,
)
from qtoolkit.records import LayerPlan, Plan, Speed, Term, WorkerPlan
from qtoolkit.stream.cost import JobShape, weights_by_block
from qtoolkit.stream.groups import is_indexed, without_indices

# Bytes a second of the folder that all share: ten gigabits.
NETWORK = 1.2e9
# The most workers that are looked at for where more save little.
_MOST = 1024
# Last parts of names of layers whose inputs are the outputs of those beside them.
_OUTPUTS = re.compile(r"(o|out|c|down)_proj|wo|w2|fc2|fc_out|dense|dense_4h_to_h|out_lin")


def with_workers(planned: PlannedJob, num_workers: int, rates: Rates | None, *, cores: int) -> Plan:
    """Return the plan of a job with what workers that share it out need.

    Args:
        planned: the job, which its method lets workers share.
        num_workers: how many there are.
        rates: of a worker; None if they are not known, and no time is told.
        cores: of the machine that is planned for; 0 if they are not known.

    """
    checkpoint, config, plan = planned.checkpoint, planned.config, planned.plan
    method = get_method(config.method)
    base = (
        Term("a fresh process", FRESH_PROCESS, "with torch and transformers imported, measured on Linux"),
        Term("code and buffers of first use", FIRST_USE, "measured: pages of torch's libraries"),
        *(
            Term(f"package {name}", RESIDENT_BYTES[name], "measured when it is imported")
            for name in method.requires
            if name in RESIDENT_BYTES
        ),
    )
    job = make_job_shape(checkpoint, plan.layers, plan.skipped, plan.footprint_after, plan.device, base, Speed())
    counts = tuple(sorted({num_workers, *(2**power for power in range(num_workers.bit_length()))}))
    doubled = [2**power for power in range(_MOST.bit_length())]
    if method.makes_parts(config):
        sharing = _in_parts(job, num_workers)
        costs = [*_block_costs(job, rates)] if rates else []

        def seconds(workers: int) -> float:
            return spread_seconds(costs, workers, network=NETWORK)

    else:
        shared = _shared_job(config, job)
        layout = _layout(checkpoint, job)
        sharing = _in_shards(checkpoint, config, job, layout, shared, num_workers=num_workers)

        def seconds(workers: int) -> float:
            assert rates is not None
            return job_seconds(layout, rates, shared, workers, network=NETWORK)

    if rates:
        enough = enough_workers([(count, seconds(count)) for count in doubled])
        sharing = replace(sharing, counts=counts, seconds=tuple(map(seconds, counts)), enough=enough)
    return replace(plan, sharing=replace(sharing, cores=cores))


def worker_memory(planned: PlannedJob) -> int:
    """Return the bytes of a worker at its peak; `planned` as for `with_workers`."""
    sharing = with_workers(planned, 1, None, cores=0).sharing
    assert sharing is not None
    return sharing.peak_rss


def _shared_job(config: Any, job: JobShape) -> SharedJob:
    """Return what a calibrated job runs through the blocks."""
    length = min(config.seq_len, job.max_seq_len or config.seq_len)
    return SharedJob(
        tokens=config.num_samples * length,
        shards=config.shards,
        # Codes of a `.gguf` file are always solved in sequence, and corrected.
        propagates=getattr(config, "propagate", True),
        corrected=getattr(config, "qep_alpha", 1.0) > 0,
    )


def _in_shards(
    checkpoint: Checkpoint, config: Any, job: JobShape, layout: Layout, shared: SharedJob, *, num_workers: int
) -> WorkerPlan:
    """Return the plan of a calibrated job without its times."""
    method = get_method(config.method)
    # A worker has the samples of one shard in memory, and one block.
    own = replace(config, num_samples=-(-config.num_samples // config.shards), shards=1)
    phases = method.planner_of(checkpoint, own).phases(replace(job, reads_text=False), own)
    phase = next(one for one in phases if one.name == "quantize")
    blocks, _ = weights_by_block(job)
    read = sum(blocks.values()) * (min(num_workers, shared.shards) if shared.propagates else 1)
    return WorkerPlan(
        num_workers=num_workers,
        memory=phase.memory,
        shared_disk=round(kept_bytes(layout, shared)),
        shared_bytes=round(shared_bytes(layout, shared)),
        weight_bytes=read,
    )


def _in_parts(job: JobShape, num_workers: int) -> WorkerPlan:
    """Return the plan of a job without calibration, whose tasks are blocks, without its times."""
    before, _ = weights_by_block(job)
    after = _bytes_after(job)
    working = max((layer.working_bytes for layer in job.layers), default=0)
    return WorkerPlan(
        num_workers=num_workers,
        memory=(
            *job.base,
            Term("a quantized block", max(after.values(), default=0), "the largest"),
            Term("a layer that is quantized", working, "source weight, float32 copies, result"),
            Term(
                "read and not given back yet",
                min(max(before.values(), default=0), GIVE_BACK_EVERY),
                "a block's weights; freed memory is given back after so much",
            ),
        ),
        shared_disk=0,
        shared_bytes=sum(after.values()),
        weight_bytes=sum(before.values()),
    )


def _block_costs(job: JobShape, rates: Rates) -> list[tuple[float, float]]:
    """Return for each block of a job without calibration its least seconds, and bytes read and written."""
    before, _ = weights_by_block(job)
    after = _bytes_after(job)
    return [(size / rates.read + after[block] / rates.write, size + after[block]) for block, size in before.items()]


def _bytes_after(job: JobShape) -> dict[str, int]:
    """Return the bytes of each block in its file."""
    sizes: dict[str, int] = defaultdict(int)
    prefix = f"{job.blocks}."
    for layer in (*job.layers, *job.skipped):
        if layer.name.startswith(prefix):
            sizes[layer.name.removeprefix(prefix).split(".")[0]] += layer.disk_bytes
    return sizes


def _layout(checkpoint: Checkpoint, job: JobShape) -> Layout:
    """Return the shape of a model whose blocks are taken to be all like the most frequent one."""
    prefix = f"{job.blocks}."
    blocks: dict[str, list[LayerPlan]] = defaultdict(list)
    for layer in job.layers:
        if layer.name.startswith(prefix):
            blocks[layer.name.removeprefix(prefix).split(".")[0]].append(layer)
    kinds = Counter(tuple(layer.shape for layer in layers) for layers in blocks.values())
    common, _ = kinds.most_common(1)[0]
    block, layers = next(
        (block, layers) for block, layers in blocks.items() if tuple(layer.shape for layer in layers) == common
    )
    config = checkpoint.config.get_text_config()
    active = largest(config, "num_experts_per_tok") or 0
    # (name without indices, inputs, whether they are outputs of others) -> by module, its outputs.
    groups: dict[tuple[str, int, bool], Counter[str]] = defaultdict(Counter)
    for layer in layers:
        within = layer.name.removeprefix(f"{prefix}{block}.")
        module, _, last = within.rpartition(".")
        outputs, inputs = layer.shape
        key = without_indices(module), inputs, bool(_OUTPUTS.fullmatch(last))
        groups[key][module] += outputs
    stages = []
    for (_, inputs, _), modules in groups.items():
        count = len(modules)
        share = min(1.0, active / count) if active and all(is_indexed(f"{module}.x") for module in modules) else 1.0
        stages.append((Group(count, inputs, round(sum(modules.values()) / count), share),))
    return Layout(checkpoint.name, len(blocks), job.hidden_size, tuple(stages))
