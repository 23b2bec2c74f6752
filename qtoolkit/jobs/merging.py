"""Merge an adapter into a quantized model: add it to the base as that is read, and quantize the sum at once."""

import os
from pathlib import Path
from typing import Any

from qtoolkit.adapters.adapted_tensors import adapted
from qtoolkit.adapters.adapter_reading import Adapter, read_adapter
from qtoolkit.adapters.base_names import trained_on
from qtoolkit.checkpoints.hub_names import is_commit_hash, is_hub_id
from qtoolkit.errors import ConfigError, ModelNotFoundError
from qtoolkit.files import path_of
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.merged_codes import merge_into_codes
from qtoolkit.jobs.merged_quality import check_measured, with_quality
from qtoolkit.jobs.quantizing import run_quantization
from qtoolkit.methods import MethodConfig, config_class, resolve_config
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.output_checks import refuse_own_source
from qtoolkit.publishing import receipt_of
from qtoolkit.quantized import QuantizedModel
from qtoolkit.records import Receipt
from qtoolkit.requests import MergeRequest, ModelSource, QuantizeRequest
from qtoolkit.texts.calibration_sources import check_calibration


def run_merge(request: MergeRequest) -> QuantizedModel:
    """Merge an adapter, as `qtoolkit.merge` describes."""
    check_measured(request)
    adapter = read_adapter(path_of(request.adapter, "adapter"))
    if request.output is not None:
        model = request.model.path if isinstance(request.model, QuantizedModel) else request.model
        for source in (adapter.folder, model):
            refuse_own_source(source, path_of(request.output, "output"))
    if adapter.repairs:
        raise ConfigError(
            f"adapter {adapter.name} makes good what the codes of one quantized model have lost, and does harm to its "
            "base: keep it beside that model (peft), or quantize with more bits"
        )
    name, receipt = _receipt(request)
    _check_weights(adapter, path_of(request.adapter, "adapter"), name, receipt)
    if request.into_codes:
        _check_base(adapter, name, receipt, os.fspath(request.base or name))
        return merge_into_codes(request, adapter)
    config = _recipe(request.config, name, receipt)
    base, revision = _base(request, name, receipt)
    _check_base(adapter, name, receipt, base)
    sums: list[Checkpoint] = []

    def change(checkpoint: Checkpoint) -> Checkpoint:
        if adapter.revision and is_commit_hash(adapter.revision) and checkpoint.commit_hash:
            _check_commit(adapter, checkpoint)
        sums.append(adapted(checkpoint, adapter))
        return sums[-1]

    merged = run_quantization(
        QuantizeRequest(
            model=base,
            config=config,
            output=request.output,
            device=request.device,
            revision=revision,
            token=request.token,
            resume=request.resume,
            resume_repo=request.resume_repo,
            overwrite=request.overwrite,
            on_progress=request.on_progress,
        ),
        change=change,
    )
    return with_quality(merged, request, adapter, total=sums[-1])


def _receipt(request: MergeRequest) -> tuple[str, Receipt | None]:
    """Return the name of the quantized model, and its receipt; None where it has none."""
    model = request.model
    if isinstance(model, QuantizedModel):
        return model.name, model.receipt
    source = ModelSource(revision=request.revision, token=request.token)
    checkpoint = open_source(model, source, on_progress=request.report, quantized=True)
    return checkpoint.name, receipt_of(checkpoint).value


def _recipe(config: Any, name: str, receipt: Receipt | None) -> MethodConfig:
    """Return how the sum is quantized.

    Raises:
        ConfigError: nobody gives a config, and the receipt's cannot be used again.
    """
    if config is not None:
        return resolve_config(config)
    if receipt is None or receipt.taken_over is not None:
        raise ConfigError(f"{name} has no receipt that tells how it was quantized: give config=")
    try:
        recipe = config_class(receipt.method).from_dict(receipt.settings)
        calibration = getattr(recipe, "calibration", None)
        if calibration is not None:
            check_calibration(calibration, getattr(recipe, "calibration_column", None))
    except ConfigError as error:
        raise ConfigError(f"the recipe of {name} cannot be used again ({error}): give config=") from error
    return recipe


def _base(request: MergeRequest, name: str, receipt: Receipt | None) -> tuple[str, str | None]:
    """Return the name of the full-precision base, and its commit on the Hub; None for a folder.

    Raises:
        ModelNotFoundError: nobody names one that can be found.
    """
    if request.base is not None:
        return os.fspath(request.base), None
    source = receipt.source if receipt else None
    if source is not None and is_hub_id(source.name) and source.commit_hash:
        return source.name, source.commit_hash
    told = f"its receipt names {source.name!r} alone" if source else "it has no receipt"
    raise ModelNotFoundError(f"the base of {name} is not at hand ({told}): give base=, its folder or Hub id")


def _check_weights(adapter: Adapter, folder: Path, name: str, receipt: Receipt | None) -> None:
    """Refuse an adapter that was trained on other weights than this model's, where both are known by their hashes.

    Raises:
        ConfigError: it was.
    """
    known, found = trained_on(folder), receipt.weights_fingerprint if receipt else None
    # A conversion writes the same weights as other files.
    if known is None or found is None or known == found or (receipt and receipt.taken_over is not None):
        return
    raise ConfigError(
        f"adapter {adapter.name} was trained on other weights ({known[:12]}) than those of {name} ({found[:12]}): give "
        "the model that it was trained on, and config= for another recipe"
    )


def _check_base(adapter: Adapter, name: str, receipt: Receipt | None, base: str) -> None:
    """Refuse an adapter that names another base than this model, its base, or a folder of either's name.

    Raises:
        ConfigError: it does.
    """
    known = {_last(name), _last(base), *([_last(receipt.source.name)] if receipt else [])}
    if adapter.base is not None and _last(adapter.base) not in known:
        raise ConfigError(
            f"adapter {adapter.name} is one of {adapter.base}, and {name} was made from {_last(base)}: give an adapter "
            "of this model"
        )


def _check_commit(adapter: Adapter, checkpoint: Checkpoint) -> None:
    """Refuse an adapter of another commit of the base.

    Raises:
        ConfigError: it is of another.
    """
    if _last(adapter.base or "") == _last(checkpoint.name) and adapter.revision != checkpoint.commit_hash:
        raise ConfigError(
            f"adapter {adapter.name} is one of {adapter.base} at {adapter.revision}, and the base is at "
            f"{checkpoint.commit_hash}: give the adapter of that, or base= with its own commit"
        )


def _last(name: str) -> str:
    """Return the last part of a Hub id or a path, without a revision."""
    return Path(name.partition("@")[0]).name.lower()
