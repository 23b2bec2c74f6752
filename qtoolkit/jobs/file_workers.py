"""Round the tensors of one file on other processes: each block by itself, and one file at the end."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats import FilePart, FilePlanner
from qtoolkit.jobs.shard_workers import ExecutorWorkers
from qtoolkit.jobs.shared_parts import folder_for_workers, make_parts, recipe_of, refuse_without_room
from qtoolkit.methods import Method, MethodConfig, Outcome, get_method
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.records import OnProgress, Plan
from qtoolkit.stream.journal import JournalLocation


def round_in_parts(
    checkpoint: Checkpoint,
    config: MethodConfig,
    plan: Plan,
    on_progress: OnProgress,
    location: JournalLocation,
    *,
    workers: ExecutorWorkers,
    method: Method,
) -> Outcome:
    """Make the tensors of a file on workers; the file that is returned writes them one after the other.

    See `Method.quantize`, whose result this is.

    Args:
        checkpoint, config, plan, on_progress: as for `Method.quantize`.
        location: of the journal, in which tensors are kept until the file is complete.
        workers: do the work.
        method: of the config.

    Raises:
        DiskFullError: there is no room for the tensors beside the file.
        QToolkitError: a task failed, or the model cannot be divided; tensors that are made are kept.
    """
    planner = method.planner_of(checkpoint, config)
    assert isinstance(planner, FilePlanner)
    parts = planner.parts()
    if not parts:
        raise UnsupportedModelError(
            f"{checkpoint.name} is read as a whole, which workers cannot share: leave out executor"
        )
    refuse_without_room(location.folder, sum(part.nbytes for part in parts))
    names = "\n".join(f"{part.name} {part.nbytes}" for part in parts)
    recipe = {**recipe_of(checkpoint, config), "tensors": hashlib.sha256(names.encode()).hexdigest()}
    with folder_for_workers(location) as beside:
        made = make_parts(
            partial(_opened, workers.opens, _with_copies(config, beside), checkpoint.dtype, plan.device),
            [part.name for part in parts],
            workers=workers,
            location=location,
            recipe=recipe,
            absent=config.absent(),
            on_progress=on_progress,
        )
    return Outcome(None, notes=(*planner.file_notes, *made.notes), file=planner.with_made(made.tensors()))


def _with_copies(config: MethodConfig, folder: Path) -> MethodConfig:
    """Return a config whose files are copies that all workers see."""
    copies: dict[str, Any] = {}
    for field in fields(config):
        file = getattr(config, field.name)
        if "is_file" in field.metadata and file is not None:
            copies[field.name] = str(shutil.copyfile(file, folder / f"{field.name}-{Path(file).name}"))
    return replace(config, **copies)


class _Tensors:
    """Make the tensors of a file as a job keeps them; implements `Parts`."""

    def __init__(self, planner: FilePlanner, device: str) -> None:
        self._planner = planner
        self._parts: tuple[FilePart, ...] = planner.parts()
        self._device = device

    def make(self, number: int) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """See `Parts`."""
        return self._planner.make_part(self._parts[number], self._device), {}


def _opened(opens: Callable[[], Checkpoint], config: MethodConfig, dtype: torch.dtype, device: str) -> _Tensors:
    """Open in a worker what makes the tensors.

    Args:
        opens: opens the model in full precision.
        config: resolved and fitted.
        dtype: of the model.
        device: where weights are quantized.
    """
    # Its tokens stand in the header, which no worker writes.
    checkpoint = replace(opens(), dtype=dtype, tokenizer=None, tokenizer_bytes=0)
    planner = get_method(config.method).planner_of(checkpoint, config)
    assert isinstance(planner, FilePlanner)
    return _Tensors(planner, device)
