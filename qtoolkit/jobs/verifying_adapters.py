"""Verify an adapter together with the quantized model that it belongs to: files, hashes, shapes, what both compute."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qtoolkit.adapters.adapter_folder import ADAPTER_WEIGHTS, A, B
from qtoolkit.adapters.adapter_patterns import pattern_problem
from qtoolkit.adapters.adapter_reading import Adapter, read_adapter
from qtoolkit.adapters.adapter_receipts import entries_of, read_adapter_receipt, weight_files_of
from qtoolkit.adapters.applied import with_adapter
from qtoolkit.adapters.base_names import trained_on
from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG, ADAPTER_RECEIPT, PICKLE_SUFFIXES
from qtoolkit.checkpoints.gguf_header import read_gguf
from qtoolkit.checkpoints.hub_names import is_hub_id
from qtoolkit.errors import QToolkitError, oneline, printable
from qtoolkit.files import path_of, read_json
from qtoolkit.formats import quiet_layers
from qtoolkit.jobs.repaired_models import Repaired, open_repaired
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.measure.guard import explained
from qtoolkit.models.structure import is_linear, linear_shape
from qtoolkit.optional import is_installed, optional
from qtoolkit.planning.device import resolve_device
from qtoolkit.publishing import measure_probe, private_in
from qtoolkit.records import AdapterReceipt, Check, ProgressEvent, Verification
from qtoolkit.requests import ModelSource, PublishRequest, VerifyRequest

# By how much the loss on a probe may differ on another processor, in nats.
_NEARLY = 0.02
# By how much logits of peft may differ from ours, as a share of them: both add in float32.
_ALIKE = 0.01
_AGAIN = "get the adapter again"
# What a name of a folder does not hold, and "org/name" does.
_NAME = re.compile(r"[^/\\<>:\x00-\x1f]{1,200}")


def holds_adapter(path: object) -> bool:
    """Check whether a folder holds an adapter, and no model."""
    if not isinstance(path, str | os.PathLike):
        return False
    # `os.path`, since a name that is no path is refused elsewhere.
    names = [os.path.join(os.path.expanduser(path), name) for name in (ADAPTER_CONFIG, "config.json")]  # noqa: PTH111, PTH118
    try:
        return os.path.isfile(names[0]) and not os.path.isfile(names[1])  # noqa: PTH113
    except ValueError:  # a NUL in it
        return False


@dataclass(frozen=True)
class CheckedAdapter:
    """An adapter after its checks.

    Attributes:
        verification: all checks.
        adapter: as it was read; None where that failed.
        receipt: of it; None for none.
    """

    verification: Verification
    adapter: Adapter | None
    receipt: AdapterReceipt | None


@explained("verifying", "free some: the base is loaded")
def verify_adapter(request: VerifyRequest) -> Verification:
    """Check an adapter and its base, as `qtoolkit.verify` describes."""
    return check_adapter(path_of(request.path, "path"), request).verification


def check_adapter(folder: Path, options: VerifyRequest | PublishRequest) -> CheckedAdapter:
    """Check an adapter: its files, then together with its base where that is given.

    Args:
        folder: of the adapter.
        options: the base, and who is called with each check.
    """
    checks: list[Check] = []

    def note(check: Check) -> None:
        checks.append(Check(check.name, check.passed, printable(check.value), printable(check.note)))
        if options.on_check:
            options.on_check(checks[-1])
        options.report(ProgressEvent("verify", len(checks), 0, "checks", check.name))

    receipt, adapter = None, None
    try:
        receipt = read_adapter_receipt(folder)
    except QToolkitError as error:
        note(_bad("receipt", oneline(error), _AGAIN))
    else:
        note(_check_receipt(receipt))
    if receipt is not None:
        note(_check_hashes(folder, receipt))
    note(_check_pickles(folder))
    for file in sorted(folder.glob("*.gguf")):
        note(_check_gguf(file))
    note(_check_name(folder))
    note(_check_private(folder))
    try:
        adapter = read_adapter(folder)
        ranks = sorted({change.rank for change in adapter.changes.values()})
        told = f"{len(adapter.changes)} layers, rank {' to '.join(map(str, {ranks[0]: 0, ranks[-1]: 0}))}"
        note(_good("matrices", told))
    except QToolkitError as error:
        note(_bad("matrices", oneline(error)))
    base = options.base or base_beside(folder, receipt)
    for check in _check_base(base, adapter, receipt, is_sound=not any(one.passed is False for one in checks)):
        note(check)
    return CheckedAdapter(Verification(printable(folder.name), tuple(checks)), adapter, receipt)


def base_beside(folder: Path, receipt: AdapterReceipt | None) -> Path | None:
    """Return the quantized model that an adapter's receipt names, where it lies beside the adapter; None otherwise."""
    name = receipt.repair.model if receipt else ""
    # A receipt may say anything: a name alone leads to no other folder.
    found = folder.resolve().parent / name
    return found if name != ".." and Path(name).name == name != "" and found.exists() else None


def _good(name: str, value: str) -> Check:
    return Check(name, passed=True, value=value)


def _bad(name: str, value: str, note: str = "") -> Check:
    return Check(name, passed=False, value=value, note=note)


def _check_receipt(receipt: AdapterReceipt | None) -> Check:
    if receipt is None:
        return Check(
            "receipt", None, "none", f"it was trained, or made elsewhere: no {ADAPTER_RECEIPT} tells of which base"
        )
    made = ", ".join(f"{name} {version}" for name, version in list(receipt.versions.items())[:2])
    return _good("receipt", f"{receipt.repair.headline().partition(';')[0]}, by {made}")


def _check_hashes(folder: Path, receipt: AdapterReceipt) -> Check:
    known = receipt.files
    unknown = next((name for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG) if name not in known), None)
    if unknown is not None:
        return _bad("file hashes", f"{ADAPTER_RECEIPT} has none of {unknown}", _AGAIN)
    present = entries_of(folder / name for name in known if "/" not in name and (folder / name).is_file())
    wrong = sorted(name for name, entry in known.items() if present.get(name) != entry)
    if wrong:
        return _bad("file hashes", f"{wrong[0]} is missing, or not the one in {ADAPTER_RECEIPT}", _AGAIN)
    return _good("file hashes", f"{len(known)} files as {ADAPTER_RECEIPT} has them")


def _check_pickles(folder: Path) -> Check:
    odd = sorted(file.name for file in folder.rglob("*") if file.suffix in (*PICKLE_SUFFIXES, ".py"))
    if odd:
        return _bad("no pickles", f"{odd[0]} is a pickle or code", f"remove it, or keep {ADAPTER_WEIGHTS} alone")
    return _good("no pickles", "safetensors and GGUF alone")


def _check_gguf(file: Path) -> Check:
    """Check that a file is an adapter of llama.cpp, whose name can stand in a command."""
    if not re.fullmatch(r"[\w.+-]+", file.name):
        return _bad(file.name, "a name of more than letters, digits and . + - _", "rename it")
    try:
        kind = read_gguf(file).values.get("general.type")
    except QToolkitError as error:
        return _bad(file.name, oneline(error), _AGAIN)
    if kind != "adapter":
        return _bad(file.name, f"of the type {kind!r:.40}", f"remove it: {file.name} is no adapter")
    return _good(file.name, "an adapter")


def _check_name(folder: Path) -> Check:
    """Check that the base is called by what others find it by."""
    named = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        return Check("name of its base", None, "none", f"name it in {ADAPTER_CONFIG}, as base_model_name_or_path")
    if not is_hub_id(named) and (_NAME.fullmatch(named) is None or named in (".", "..", "~")):
        return _bad("name of its base", "a folder of one machine", f"name the published model in {ADAPTER_CONFIG}")
    return _good("name of its base", named)


def _check_private(folder: Path) -> Check:
    """Check that no text that is published holds what looks like a token, or a folder of somebody's machine."""
    for file in sorted(folder.glob("*.json")):
        found = private_in(file.read_bytes()) if file.is_file() else ""
        if found:
            return _bad("nothing private", f"{file.name} holds {found}", "remove it; revoke what is secret")
    return _good("nothing private", "no tokens, no local paths")


def _check_base(
    base: str | os.PathLike[str] | None, adapter: Adapter | None, receipt: AdapterReceipt | None, *, is_sound: bool
) -> Iterator[Check]:
    """Yield the checks that need the base; it is not loaded where an earlier check failed."""
    if base is None:
        yield Check("base", None, "not given", "give base=, the quantized model that the adapter belongs to")
        return
    if adapter is None or not is_sound:
        yield Check("base", None, "not tried", "the adapter failed a check")
        return
    repaired = open_repaired(base, ModelSource(), resolve_device("auto"))
    hashes = _check_files(repaired, receipt, trained_on(adapter.folder))
    yield hashes
    shapes = _check_shapes(repaired, adapter)
    yield shapes
    if shapes.passed and hashes.passed is not False:
        yield from _check_running(repaired, adapter, receipt)


def _check_files(repaired: Repaired, receipt: AdapterReceipt | None, fingerprint: str | None) -> Check:
    # A conversion writes the same weights as other files.
    own = repaired.receipt.weights_fingerprint if repaired.receipt and repaired.receipt.taken_over is None else None
    if receipt is None and fingerprint is not None and own is not None:
        told = f"the weights in its receipt are {'' if own == fingerprint else 'not '}those that it was trained on"
        return (
            _good("base", told) if own == fingerprint else _bad("base", told, "give the model that it was trained on")
        )
    if receipt is None or not receipt.base_files:
        return Check("base", None, "not proven", "no receipt has the hashes of its base's files")
    assert repaired.path is not None
    found = {entry.sha256 for entry in entries_of(weight_files_of(repaired.path)).values()}
    wanted = {entry.sha256 for entry in receipt.base_files.values()}
    if found != wanted:
        name = receipt.repair.model
        return _bad("base", f"its weight files are not those of {name}", "give the model that was repaired")
    return _good("base", f"{len(wanted)} weight files with the hashes in {ADAPTER_RECEIPT}")


def _check_shapes(repaired: Repaired, adapter: Adapter) -> Check:
    modules = dict(repaired.model.named_modules())
    for name, change in adapter.changes.items():
        module = modules.get(name)
        shape = None if module is None else _shape(module)
        if shape is None:
            return _bad("shapes", f"the base has no layer {name}", "give the model that it is an adapter of")
        if shape != change.shape or change.rank > min(shape):
            told = f"{name} is {shape[0]} x {shape[1]}, and the adapter {change.shape[0]} x {change.shape[1]}"
            return _bad("shapes", f"{told} of rank {change.rank}", "give the model that it is an adapter of")
    return _good("shapes", f"{len(adapter.changes)} layers of the base have its shapes")


def _shape(module: Any) -> tuple[int, int] | None:
    """Return (out, in) of a linear layer, quantized or not; None for another module."""
    if is_linear(module):
        return linear_shape(module)
    if isinstance(module, QuantizedLinear) or hasattr(module, "in_features"):
        return module.out_features, module.in_features
    return None


def _check_running(repaired: Repaired, adapter: Adapter, receipt: AdapterReceipt | None) -> Iterator[Check]:
    """Yield what base and adapter compute together: as the receipt says, and as peft does."""
    model, tokenizer = repaired.model, repaired.tokenizer
    tensors: Mapping[str, torch.Tensor] = {
        f"{name}.{part}": matrix
        for name, change in adapter.changes.items()
        for part, matrix in ((A, change.a.float()), (B, change.scaling * change.b.float()))
    }
    try:
        with quiet_layers():
            before = measure_probe(model, tokenizer)
            with with_adapter(model, tensors):
                after = measure_probe(model, tokenizer)
                ids = torch.tensor([after.token_ids], device=model.device)
                with torch.no_grad():
                    ours = model(input_ids=ids).logits.float()
    except ValueError as error:  # logits that are NaN or infinite
        yield _bad("figures", oneline(error), _AGAIN)
        return
    told = f"loss on a probe {before.loss:.3f} without it, {after.loss:.3f} with it"
    if receipt is None:
        yield Check("figures", None, told, "no receipt has figures to compare with")
    else:
        known = receipt.probe_before.loss, receipt.probe.loss
        is_same = abs(before.loss - known[0]) < _NEARLY and abs(after.loss - known[1]) < _NEARLY
        then = f"{known[0]:.3f} and {known[1]:.3f} when it was made"
        yield Check("figures", is_same, f"{told}; {then}", "" if is_same else "give the model that was repaired")
    if not is_installed("peft"):
        yield Check("loads in peft", None, "not tried", "peft is not installed")
        return
    yield _check_peft(model, adapter, ids, ours)


def _check_peft(model: Any, adapter: Adapter, ids: torch.Tensor, ours: torch.Tensor) -> Check:
    peft: Any = optional("peft", "loading an adapter")
    problem = pattern_problem(read_json(adapter.folder / ADAPTER_CONFIG), dict(model.named_modules()))
    if problem:
        return _bad("loads in peft", f"not tried: {problem}", _AGAIN)
    try:
        with torch.no_grad(), quiet_layers():
            theirs = peft.PeftModel.from_pretrained(model, adapter.folder)(input_ids=ids).logits.float()
    except Exception as error:  # noqa: BLE001  # a config that lies makes peft raise anything
        return _bad("loads in peft", oneline(error))
    far = float((theirs - ours).norm() / ours.norm())
    if not far < _ALIKE:
        return _bad("loads in peft", f"peft {peft.__version__} computes other logits, by {far:.1e} of them", _AGAIN)
    return _good("loads in peft", f"peft {peft.__version__} computes the same, but for {far:.1e}")
