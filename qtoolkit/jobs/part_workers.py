"""Quantize a model without calibration on other processes: each block by itself, into a file of its own."""

import hashlib
import json
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qtoolkit.checkpoints.safetensors import read_tensors
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats import side_files_of
from qtoolkit.jobs.held import Held
from qtoolkit.jobs.shard_workers import ExecutorWorkers, naming_worker
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods import MethodConfig, Outcome, WeightOnlyMethod, get_method
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.structure import is_linear
from qtoolkit.records import OnProgress, Plan, ProgressEvent, ignore_progress
from qtoolkit.stream.journal import Journal, JournalLocation
from qtoolkit.stream.loading import load_streamed
from qtoolkit.stream.model_parts import ModelParts, with_values
from qtoolkit.stream.writing import own_tensors, save_model, write_file, write_index
from qtoolkit.structural_reading import check_opens


@dataclass(frozen=True)
class PartsJob:
    """Hold what every process that works on a job knows; it can be pickled.

    Attributes:
        opens: opens the model in full precision.
        config: resolved and fitted.
        dtype: of what is not quantized.
        plan: file of the plan, which names all layers.
        journal: folder of the journal.
        recipe: of the journal.
        key: of this run of the job, unlike that of any other.
    """

    opens: Callable[[], Checkpoint]
    config: MethodConfig
    dtype: torch.dtype
    plan: Path
    journal: Path
    recipe: Mapping[str, Any]
    key: str


def quantize_in_parts(
    checkpoint: Checkpoint,
    config: MethodConfig,
    plan: Plan,
    on_progress: OnProgress,
    location: JournalLocation,
    *,
    workers: ExecutorWorkers,
    method: WeightOnlyMethod,
    folder: Path,
    base: Path | None,
) -> Outcome:
    """Quantize the blocks of a model on workers, and all else here; write the result into a folder.

    Each tensor is the one that the job in one process makes; each block is a file, which the worker writes itself.
    See `Method.quantize`, whose result this is.

    Args:
        checkpoint, config, plan, on_progress: as for `Method.quantize`.
        location: of the journal, in which blocks are kept until all are done.
        workers: do the work.
        method: of the config.
        folder: empty, on the disk of the journal.
        base: the folder of the model, as for `save_model`.

    Raises:
        QToolkitError: a task failed, or the model cannot be divided; blocks that are done are kept.
    """
    source = method.source_of(checkpoint, config, plan)
    parts = ModelParts(source)
    names = [f"{layer.name} {layer.bits}" for layer in plan.layers]
    recipe = {
        "method": method.name,
        **config.to_file(),
        "commit_hash": checkpoint.commit_hash,
        "weights": checkpoint.fingerprint(),
        "layers": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "dtype": str(checkpoint.dtype),
    }
    journal = Journal(location, recipe, absent=config.absent())
    facts = {number: found.facts for number in range(len(parts.names)) if (found := journal.read(number, _fits))}

    def report(what: str = "") -> None:
        on_progress(ProgressEvent("quantize", len(facts), len(parts.names), "blocks", what))

    report()
    with tempfile.TemporaryDirectory(prefix="parts-", dir=location.folder.parent, ignore_cleanup_errors=True) as beside:
        file = Path(beside) / "plan.json"
        file.write_text(json.dumps(plan.to_dict()), encoding="utf-8")
        key = secrets.token_hex(8)
        job = PartsJob(workers.opens, config, checkpoint.dtype, file, location.folder, recipe, key)
        missing = [number for number in range(len(parts.names)) if number not in facts]
        try:
            for at, found in workers.run(quantize_part, [(job, number) for number in missing], report):
                facts[missing[at]] = found
                report(parts.names[missing[at]])
        finally:
            _held.forget(job.key)
    maker = PartMaker(source, parts, method=method, config=config, plan=plan)
    rest = maker.make(None)

    def place(tensors: Mapping[str, Any]) -> list[str]:
        """Put the files of the blocks, and that of all else, where the result is."""
        files = [f"model-{number + 1:05}-of-{len(facts) + 1:05}.safetensors" for number in range(len(facts) + 1)]
        for number, name in enumerate(files[:-1]):
            journal.files(number)[0].replace(folder / name)
        for _ in write_file(folder / files[-1], with_values(tensors)):
            pass
        return [*files, *write_index(folder, {name: read_tensors(folder / name) for name in files})]

    saved = save_model(
        rest.model, checkpoint.tokenizer, folder, on_progress, base=base, side_files=side_files_of, weights=place
    )
    check_opens(folder)
    told = [note for number in sorted(facts) for note in facts[number]["notes"]]
    # No file holds them, and no part of the model makes them.
    computed = {id(buffer): buffer.nbytes for _, buffer in checkpoint.skeleton.named_non_persistent_buffers()}
    footprint = rest.footprint + sum(one["footprint"] for one in facts.values()) + sum(computed.values())
    notes = (*method.notes(config, plan.layers), *rest.notes, *told, *journal.notes, *saved)
    return Outcome(None, notes=notes, footprint=footprint, is_written=True)


def _fits(_tensors: Any, facts: Mapping[str, Any]) -> bool:
    """Check the facts of a block, whose tensors their recipe and their hash prove."""
    return isinstance(facts.get("footprint"), int) and isinstance(facts.get("notes"), list)


class MadePart(NamedTuple):
    """Hold a part of a quantized model.

    Attributes:
        model: which has no other modules.
        footprint: bytes of its tensors.
        notes: what was decided.
    """

    model: Any
    footprint: int
    notes: tuple[str, ...]


class PartMaker:
    """Quantize parts of a model, one at a time.

    Args:
        source: the model in full precision, as its method reads it.
        parts: its parts.
        method, config, plan: as for `Method.quantize`.
    """

    def __init__(
        self, source: Checkpoint, parts: ModelParts, *, method: WeightOnlyMethod, config: MethodConfig, plan: Plan
    ) -> None:
        self._parts = parts
        self._method = method
        self._config = config
        self._plan = plan
        self._stored_as = method.transformers_config(source, config, plan)

    def make(self, number: int | None) -> MadePart:
        """Quantize a block, or what is outside of the blocks.

        Raises:
            CheckpointError: weights are missing or damaged.
            UnsupportedModelError: a layer that the plan quantizes is as it was.
        """
        part, plan = self._parts.part(number), self._plan
        own = self._parts.checkpoint_of(part)
        loaded = load_streamed(own, self._stored_as, device=plan.device, on_progress=ignore_progress, part=part)
        model = loaded.value
        planned = [layer.name for layer in plan.layers if part.holds(f"{layer.name}.")]
        left = [name for name in planned if is_linear(model.get_submodule(name))]
        if left:
            what = f"{plan.method} left {left[0]} of {plan.source.name} as it was"
            raise UnsupportedModelError(f"{what}, and nothing was written: take another method, or exclude it")
        self._method.prepare(model)
        notes = (*loaded.notes, *self._method.measured_notes(model, self._config))
        return MadePart(model, memory_footprint(model), notes)


def quantize_part(job: PartsJob, number: int, attempt: int) -> dict[str, Any]:
    """Quantize a block in this process, one at a time whatever its threads, and keep it in the journal.

    Returns:
        What the journal has of it beside the tensors.

    Raises:
        QToolkitError: it fails and would fail again; the message names the worker.
    """
    with naming_worker(), _held.lock:
        maker, journal = _held.get(job.key, partial(_opened, job))
        made = maker.make(number)
        facts = {"footprint": made.footprint, "notes": list(made.notes)}
        journal.write(number, with_values(own_tensors(made.model)), facts)
        del made
        give_memory_back()
    return facts


def _opened(job: PartsJob) -> tuple[PartMaker, Journal]:
    """Return what makes and keeps the parts of a job."""
    method = get_method(job.config.method)
    assert isinstance(method, WeightOnlyMethod)
    plan = Plan.from_dict(json.loads(job.plan.read_text(encoding="utf-8")))
    source = method.source_of(replace(job.opens(), dtype=job.dtype), job.config, plan)
    maker = PartMaker(source, ModelParts(source), method=method, config=job.config, plan=plan)
    return maker, Journal(JournalLocation(job.journal), job.recipe, absent=job.config.absent())


# The model without values that the last task made.
_held: Held[tuple[PartMaker, Journal]] = Held()
