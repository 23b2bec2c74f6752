"""Quantize with optimum's GPTQQuantizer and gptqmodel, from the same config and text, and read the result back."""

import importlib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from qtoolkit.checkpoints.safetensors import read_tensors
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.files import scratch_folder
from qtoolkit.methods.gptq import GPTQ
from qtoolkit.methods.method import Outcome
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.structure import block_list
from qtoolkit.optional import optional
from qtoolkit.records import CalibrationReport, Plan, ignore_progress
from qtoolkit.stream.loading import load_streamed
from qtoolkit.texts.calibration_text import Calibration

PACKAGES = ("optimum", "gptqmodel")


def quantize(checkpoint: Checkpoint, config: GPTQ, plan: Plan, text: Calibration) -> Outcome:
    """Quantize with optimum: the whole model is in memory, and no journal is written.

    With `order` "activation", groups stay in the order of the inputs, and columns are done by the activation of their
    groups (`act_group_aware`). Scales are not searched.

    Raises:
        MissingDependencyError: optimum or gptqmodel is not installed.
        UnsupportedModelError: the model has experts, which optimum does not split into layers.
    """
    for package in PACKAGES:
        optional(package, "engine='optimum'")
    if any(".experts." in layer.name for layer in plan.layers):
        raise UnsupportedModelError(f"optimum does not take apart experts, as {checkpoint.name} has: leave out engine")
    blocks = block_list(checkpoint.skeleton)
    assert blocks is not None
    inner = sorted({layer.name.removeprefix(f"{blocks[0]}.").partition(".")[2] for layer in plan.layers})
    quantizer = importlib.import_module("optimum.gptq").GPTQQuantizer(
        bits=config.bits,
        group_size=config.group_size,
        sym=config.sym,
        desc_act=config.desc_act,
        act_group_aware=config.order == "activation" and not config.desc_act and config.group_size != -1,
        damp_percent=config.damp_percent,
        true_sequential=config.true_sequential,
        block_name_to_quantize=blocks[0],
        modules_in_block_to_quantize=[[name] for name in inner],
        dataset=[{"input_ids": row[None], "attention_mask": row[None].ne(-1).long()} for row in text.tokens],
    )
    model = load_streamed(checkpoint, None, device=plan.device, on_progress=ignore_progress).value
    model = quantizer.quantize_model(model, checkpoint.tokenizer)
    made_by = [f"{package}:{version(package)}" for package in PACKAGES]
    described = config.stored_as.describe(config, {layer.name: config.bits for layer in plan.layers}, [], [], {}) | {
        "meta": {"quantizer": made_by}
    }
    with scratch_folder("qtoolkit-optimum-") as folder:
        # It would write the calibration text into the config.
        quantizer.dataset = model.config.quantization_config["dataset"] = None
        quantizer.save(model, folder)
        del model
        files = Path(folder).glob("*.safetensors")
        tensors = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
        loaded = config.stored_as.load(replace(checkpoint, tensors=tensors, expand=None), described, device=plan.device)
    notes = [*loaded.notes, f"quantized by {' and '.join(made_by)}, which tell no error of layers"]
    report = CalibrationReport(
        text=text.name,
        num_samples=len(text.tokens),
        seq_len=text.tokens.shape[1],
        perplexity=None,
        damp_percent=config.damp_percent,
        layers=(),
        resumed=0,
        fingerprint=text.fingerprint,
        text_check=text.checked,
    )
    return Outcome(loaded.value, report, notes)
