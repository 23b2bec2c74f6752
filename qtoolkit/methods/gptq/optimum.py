"""GPTQ by optimum's GPTQQuantizer with gptqmodel, from the same config and text, read back like any checkpoint."""

import importlib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.safetensors import read_tensors
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.files import scratch_folder
from qtoolkit.formats.gptq.checkpoint import load_quantized
from qtoolkit.formats.gptq.config import describe
from qtoolkit.methods._method import Outcome
from qtoolkit.models import Checkpoint
from qtoolkit.models.structure import block_list
from qtoolkit.optional import optional
from qtoolkit.records import CalibrationReport, Plan, ignore_progress
from qtoolkit.stream import load_streamed
from qtoolkit.texts.calibration_text import Calibration

PACKAGES = ("optimum", "gptqmodel")


def quantize(checkpoint: Checkpoint, config: Any, plan: Plan, text: Calibration) -> Outcome:
    """Quantize with optimum; the whole model is in memory, and nothing is kept until it is done.

    Its groups keep their places and columns go by the strength of groups (`act_group_aware`) where `order` is
    "activation"; scales are not searched.

    Raises:
        MissingDependencyError: optimum or gptqmodel is not installed.
        UnsupportedModelError: experts, which it does not take apart.
    """
    for package in PACKAGES:
        optional(package, "engine='optimum'")
    if any(".experts." in layer.name for layer in plan.layers):
        raise UnsupportedModelError(f"optimum does not take apart experts, as {checkpoint.name} has: leave out engine")
    found = block_list(checkpoint.skeleton)
    assert found is not None
    inner = sorted({layer.name.removeprefix(f"{found[0]}.").partition(".")[2] for layer in plan.layers})
    quantizer = importlib.import_module("optimum.gptq").GPTQQuantizer(
        bits=config.bits,
        group_size=config.group_size,
        sym=config.sym,
        desc_act=config.desc_act,
        act_group_aware=config.order == "activation" and not config.desc_act and config.group_size != -1,
        damp_percent=config.damp_percent,
        true_sequential=config.true_sequential,
        block_name_to_quantize=found[0],
        modules_in_block_to_quantize=[[name] for name in inner],
        dataset=[{"input_ids": row[None], "attention_mask": row[None].ne(-1).long()} for row in text.tokens],
    )
    model = load_streamed(checkpoint, None, device=plan.device, on_progress=ignore_progress).value
    model = quantizer.quantize_model(model, checkpoint.tokenizer)
    made_by = [f"{package}:{version(package)}" for package in PACKAGES]
    described = describe(config, {layer.name: config.bits for layer in plan.layers}, []) | {
        "meta": {"quantizer": made_by}
    }
    with scratch_folder("qtoolkit-optimum-") as folder:
        # It would write the calibration text into the config.
        quantizer.dataset = model.config.quantization_config["dataset"] = None
        quantizer.save(model, folder)
        del model
        files = Path(folder).glob("*.safetensors")
        tensors = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
        loaded = load_quantized(replace(checkpoint, tensors=tensors, expand=None), described, device=plan.device)
    notes = [*loaded.notes, f"quantized by {' and '.join(made_by)}, which tell no error of layers"]
    shape = text.tokens.shape
    report = CalibrationReport(text.name, shape[0], shape[1], None, config.damp_percent, (), 0)
    return Outcome(loaded.value, replace(report, fingerprint=text.fingerprint, text_check=text.checked), notes)
