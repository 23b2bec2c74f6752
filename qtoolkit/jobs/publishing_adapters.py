"""Publish an adapter: verify it together with its base, describe it in a card, and send it to the Hub."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from qtoolkit.adapters.adapter_card import adapter_card
from qtoolkit.adapters.adapter_folder import ADAPTER_WEIGHTS
from qtoolkit.adapters.adapter_reading import read_adapter
from qtoolkit.adapters.adapter_receipts import read_adapter_receipt
from qtoolkit.adapters.base_names import TRAINED_ON, trained_on, trained_on_text
from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG, ADAPTER_RECEIPT
from qtoolkit.checkpoints.hub_names import is_hub_id
from qtoolkit.errors import ConfigError, VerificationError
from qtoolkit.files import path_of, read_json
from qtoolkit.jobs.verifying_adapters import CheckedAdapter, base_beside, check_adapter
from qtoolkit.measure.guard import explained
from qtoolkit.publishing import check_repo_id, choose_license, publish_files
from qtoolkit.records import FileEntry, Publication
from qtoolkit.requests import PublishRequest


@explained("publishing", "free some: the base is loaded")
def publish_adapter(request: PublishRequest) -> Publication:
    """Verify an adapter and put it on the Hub, as `qtoolkit.publish` describes."""
    check_repo_id(request.repo_id)
    folder = path_of(request.path, "path")
    adapter = read_adapter(folder)
    base_model = _base_model(request, adapter.base)
    refused = [name for name in ("quality", "frontier", "also") if getattr(request, name)]
    if refused:
        raise ConfigError(f"{refused[0]} is for a model, and {folder.name} is an adapter: leave it out")
    if request.base is None and base_beside(folder, read_adapter_receipt(folder)) is None:
        raise ConfigError(f"{folder.name} is proven with its base alone: give base=, the quantized model's folder")
    checked = check_adapter(folder, request)
    failed = checked.verification.failed
    if failed:
        shown = "; ".join(f"{check.name}: {check.value[:120]}" for check in failed[:3])
        raise VerificationError(f"{folder.name} is not published, for qt.verify finds {shown}")
    receipt = checked.receipt
    license = choose_license(base_model, receipt.license if receipt else None, request.license)
    files = _files(folder, checked, base_model)
    card = adapter_card(
        adapter,
        receipt,
        checked.verification,
        repo_id=request.repo_id,
        base_model=base_model,
        license=license,
        files=files,
    )
    return publish_files(
        request,
        files,
        card,
        checked.verification,
        message=f"an adapter of {base_model}, by qtoolkit",
        gated=bool(receipt and receipt.gated),
    )


def _base_model(request: PublishRequest, named: str | None) -> str:
    """Return where the quantized model is published.

    Raises:
        ConfigError: nobody says, or it is said to be something else than an adapter.
    """
    if request.base_model_relation not in (None, "adapter"):
        raise ConfigError(f"base_model_relation of an adapter is 'adapter', got {request.base_model_relation!r:.40}")
    base_model = request.base_model or (named if named and is_hub_id(named) and "/" in named else None)
    if base_model is None or not is_hub_id(base_model) or "/" not in base_model:
        raise ConfigError(
            f"an adapter belongs to a model that others find, and {base_model or named!r} is none: publish the "
            "quantized model first, and give base_model='org/name'"
        )
    return base_model


def _files(folder: Path, checked: CheckedAdapter, base_model: str) -> dict[str, Path | bytes]:
    """Return what is published: weights, config and receipt that name the published base, and a `.gguf` file."""
    config = read_json(folder / ADAPTER_CONFIG)
    config["base_model_name_or_path"] = base_model
    text = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    files: dict[str, Path | bytes] = {ADAPTER_WEIGHTS: folder / ADAPTER_WEIGHTS, ADAPTER_CONFIG: text}
    files |= {file.name: file for file in sorted(folder.glob("*.gguf"))}
    # Nothing else of the folder, in which a link may lead anywhere.
    fingerprint = trained_on(folder)
    if fingerprint is not None:
        files[TRAINED_ON] = trained_on_text(fingerprint).encode()
    if checked.receipt is not None:
        entry = FileEntry(len(text), hashlib.sha256(text).hexdigest())
        told = replace(checked.receipt, files={**checked.receipt.files, ADAPTER_CONFIG: entry})
        files[ADAPTER_RECEIPT] = json.dumps(told.to_dict(), indent=2, sort_keys=True, allow_nan=False).encode()
    return files
