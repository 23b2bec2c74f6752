"""Open the checkpoint that a request names."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from qtoolkit.checkpoints.expanded_tensors import check_scales
from qtoolkit.checkpoints.other_programs import refuse_stored
from qtoolkit.checkpoints.source_codes import source_codes
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.files import path_of
from qtoolkit.formats import format_of, side_file_names
from qtoolkit.methods import config_of_checkpoint
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.expanding import expanded
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.records import OnProgress, ignore_progress
from qtoolkit.requests import ModelSource


def open_source(
    model: Any,
    source: ModelSource,
    *,
    on_progress: OnProgress = ignore_progress,
    quantized: bool = False,
    headers_only: bool = False,
    expands: bool = False,
) -> Checkpoint:
    """Open a model for reading, with the revision, token and tokenizer of a request.

    Weights that are stored as FP8, MXFP4 or NVFP4 are expanded when they are read, unless they are to be used as they
    are stored: a quantized checkpoint is accepted, and a format reads it.

    Args:
        model: a Hub id, a folder, a `.gguf` file or a loaded model.
        source: the request, or another that holds these three.
        on_progress: called while files are downloaded.
        quantized: accept a checkpoint that is quantized already.
        headers_only: read and download no weights.
        expands: expand such weights also where a format reads them.

    Raises:
        QToolkitError: as `qtoolkit.load`; or a scale is NaN, unless only headers are read.
    """
    checkpoint = open_checkpoint(
        model,
        revision=source.revision,
        token=source.token,
        tokenizer=source.tokenizer,
        on_progress=on_progress,
        quantized=quantized,
        refuse=partial(_refuse_unread, expands=expands),
        headers_only=headers_only,
        side_files=side_file_names() if quantized else (),
    )
    if checkpoint.quantization is None or (quantized and not expands and _is_read(checkpoint.quantization)):
        return checkpoint
    result = expanded(checkpoint)
    if not headers_only:
        check_scales(result.tensors)
    return result


def portable_name(model: Any, checkpoint: Checkpoint) -> str:
    """Return a model that is named as other processes find it.

    Args:
        model: a Hub id, a folder or a file.
        checkpoint: the same, opened.

    Returns:
        the id without its revision, which is pinned, or an absolute path.
    """
    return checkpoint.name if checkpoint.commit_hash else str(path_of(model, "model"))


def _refuse_unread(name: str, values: Mapping[str, Any], *, expands: bool) -> None:
    """Refuse a quantized checkpoint that is not read here, by its `quantization_config` alone.

    Args:
        name: what the model is called.
        values: the `quantization_config`.
        expands: whether weights that can be expanded will be.

    Raises:
        CheckpointError, UnsupportedModelError: no format reads it, and it cannot be expanded.
    """
    if source_codes(name, values) is not None and (expands or not _is_read(values)):
        return
    if format_of(values) is None:
        refuse_stored(name, values)
    try:
        config_of_checkpoint(values)
    except (AttributeError, KeyError, TypeError):
        # Values of other types than the format's: the loader names the model and what it was told.
        return


def _is_read(values: Mapping[str, Any]) -> bool:
    """Check by a `quantization_config`, which anybody may have written, whether a format reads codes as stored."""
    if format_of(values) is None:
        return False
    try:
        config_of_checkpoint(values)
    except UnsupportedModelError:
        return False
    except (AttributeError, KeyError, TypeError):
        # As in `_refuse_unread`.
        return True
    return True
