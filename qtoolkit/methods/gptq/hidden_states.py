"""Where the hidden states of all samples wait from one block to the next: on the GPU where a plan has room for them."""

from qtoolkit.methods.gptq import GPTQ
from qtoolkit.records import Plan, Term
from qtoolkit.stream.cost import JobShape

_NAME = "hidden states of the samples"
# The share of a GPU's free memory that a job may fill with them: its allocator loses some in pieces.
_SHARE = 0.8


def stay_on_gpu(job: JobShape, config: GPTQ, states: int, others: int) -> bool:
    """Return whether hidden states stay on the job's GPU.

    Args:
        job: the job; nothing stays where its GPU's memory is not known.
        config: a job in shards keeps them in files, one of blocks that stand alone in main memory.
        states: their bytes.
        others: bytes of what else is on the GPU at the fullest moment.
    """
    in_one_process = config.shards <= 1 and config.propagate and config.engine != "optimum"
    return in_one_process and not job.on_cpu and job.vram is not None and states + others <= _SHARE * job.vram


def states_term(job: JobShape, size: int, described: str, *, on_gpu: bool) -> Term:
    """Return their line of a plan, which says on a GPU where they wait."""
    if job.on_cpu:
        return Term(_NAME, size, described)
    where = "stay on the GPU, which has room" if on_gpu else "copied to the GPU for each block"
    return Term(_NAME, size, f"{described}; {where}")


def where_states_wait(plan: Plan) -> str:
    """Return the device on which a plan's job keeps them, "cpu" or "cuda:0"."""
    on_gpu = any(term.name == _NAME for phase in plan.phases for term in phase.vram)
    return plan.device if on_gpu else "cpu"
