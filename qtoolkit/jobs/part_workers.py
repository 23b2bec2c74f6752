"""Quantize a model without calibration on other processes: each block by itself, into a file of its own."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qtoolkit.checkpoints.safetensors import read_tensors
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats import side_files_of
from qtoolkit.jobs.shard_workers import ExecutorWorkers
from qtoolkit.jobs.shared_parts import folder_for_workers, make_parts, recipe_of
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.methods import MethodConfig, Outcome, WeightOnlyMethod, get_method
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.structure import is_linear
from qtoolkit.records import OnProgress, Plan, ignore_progress
from qtoolkit.stream.journal import JournalLocation
from qtoolkit.stream.loading import load_streamed
from qtoolkit.stream.model_parts import ModelParts, with_values
from qtoolkit.stream.writing import own_tensors, save_model, write_file, write_index
from qtoolkit.structural_reading import check_opens


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
    recipe = {**recipe_of(checkpoint, config), "layers": hashlib.sha256("\n".join(names).encode()).hexdigest()}
    with folder_for_workers(location) as beside:
        file = beside / "plan.json"
        file.write_text(json.dumps(plan.to_dict()), encoding="utf-8")
        made = make_parts(
            partial(_opened, workers.opens, config, checkpoint.dtype, file),
            parts.names,
            workers=workers,
            location=location,
            recipe=recipe,
            absent=config.absent(),
            fits=_fits,
            on_progress=on_progress,
        )
    maker = PartMaker(source, parts, method=method, config=config, plan=plan)
    rest = maker.make(None)

    def place(tensors: Mapping[str, Any]) -> list[str]:
        """Put the files of the blocks, and that of all else, where the result is."""
        count = len(made.files) + 1
        files = [f"model-{number + 1:05}-of-{count:05}.safetensors" for number in range(count)]
        for file, name in zip(made.files, files, strict=False):
            file.replace(folder / name)
        for _ in write_file(folder / files[-1], with_values(tensors)):
            pass
        return [*files, *write_index(folder, {name: read_tensors(folder / name) for name in files})]

    saved = save_model(
        rest.model, checkpoint.tokenizer, folder, on_progress, base=base, side_files=side_files_of, weights=place
    )
    check_opens(folder)
    told = [note for facts in made.facts for note in facts["notes"]]
    # No file holds them, and no part of the model makes them.
    computed = {id(buffer): buffer.nbytes for _, buffer in checkpoint.skeleton.named_non_persistent_buffers()}
    footprint = rest.footprint + sum(facts["footprint"] for facts in made.facts) + sum(computed.values())
    notes = (*method.notes(config, plan.layers), *rest.notes, *told, *made.notes, *saved)
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


class _Blocks:
    """Make the blocks of a quantized model as a job keeps them; implements `Parts`."""

    def __init__(self, maker: PartMaker) -> None:
        self._maker = maker

    def make(self, number: int) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """See `Parts`."""
        made = self._maker.make(number)
        facts = {"footprint": made.footprint, "notes": list(made.notes)}
        return with_values(own_tensors(made.model)), facts


def _opened(opens: Callable[[], Checkpoint], config: MethodConfig, dtype: torch.dtype, file: Path) -> _Blocks:
    """Open in a worker what makes the blocks.

    Args:
        opens: opens the model in full precision.
        config: resolved and fitted.
        dtype: of what is not quantized.
        file: of the plan, which names all layers.
    """
    method = get_method(config.method)
    assert isinstance(method, WeightOnlyMethod)
    plan = Plan.from_dict(json.loads(file.read_text(encoding="utf-8")))
    source = method.source_of(replace(opens(), dtype=dtype), config, plan)
    return _Blocks(PartMaker(source, ModelParts(source), method=method, config=config, plan=plan))
