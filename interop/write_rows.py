"""Write small checkpoints for the rows of the reader contract that the other scripts show nothing of.

Run `python interop/write_rows.py FOLDER`: each with logits and with what the contract says of it. Some that readers are
to refuse are copies of another one whose config says something else.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import keep, random_llama
from layers import keep_weights
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from write import claim, numbers
from write_servers import CHEAP, PACKED

import qtoolkit as qt
from qtoolkit.checkpoints.config_ages import with_both_ages
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.readers.stored import W4A8
from tests.coded_models import float4_config, float4_parts, store_as_float8, write
from tests.formats.awq.awq_files import quantize

DATA = Path(__file__).parent.parent / "tests" / "data" / "auto_round"
# Of the 64 words that those models know.
FEW = torch.arange(3, 35)[None]  # (1, 32)
_GATE = ("lm_head", "layers.0.mlp.gate_proj")
_SMALL = {"vocab_size": 256, "hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
_MIXTRAL = {"intermediate_size": 256, "num_key_value_heads": 2, "num_local_experts": 4}
_QWEN3_MOE = {"num_key_value_heads": 2, "head_dim": 32, "moe_intermediate_size": 128, "num_experts": 4}
_QWEN3_MOE |= {"num_experts_per_tok": 2}
_GPT_OSS = {"intermediate_size": 128, "num_key_value_heads": 2, "head_dim": 32, "num_local_experts": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", _SMALL | _MIXTRAL),
    # Of whose inputs 96 is a divisor: otherwise the largest one below is taken.
    "gptq-96inputs": ("llama", _SMALL | {"hidden_size": 192, "intermediate_size": 384, "num_attention_heads": 6}),
    # Of whose queries blocks of 128 outputs do not divide.
    "fp8-cut": ("llama", _SMALL | {"hidden_size": 192, "intermediate_size": 384, "num_attention_heads": 6}),
    # mlx-lm finds groups by the shapes of tensors, whatever the config says of them.
    "awq-256inputs": ("llama", _SMALL | {"hidden_size": 256, "intermediate_size": 512}),
    # With a bias in no layer, and heads of a size that its attention takes.
    "falcon": ("falcon", _SMALL | {"bias": False, "alibi": False}),
    "qwen3-moe": ("qwen3_moe", _SMALL | _QWEN3_MOE),
    "gpt-oss": ("gpt_oss", _SMALL | _GPT_OSS | {"num_experts_per_tok": 2}),
}
# By the model in front of the name, or the Llama of the other scripts.
MADE: dict[str, Any] = {
    "fp8-channels": qt.FP8(),
    "fp8-blocks": qt.FP8(granularity="block"),
    "fp8-left-unit": qt.FP8(exclude=_GATE),
    "int8": qt.W8A8(),
    "int8-left-unit": qt.W8A8(exclude=_GATE),
    "mixtral-int8": qt.W8A8(),
    "nf4": qt.NF4(),
    "mixtral-nf4": qt.NF4(),
    "falcon-nf4": qt.NF4(),
    "native": qt.AbsMax(format="native"),
    "mlx": qt.GPTQ(**CHEAP | {"format": "mlx"}),
    "qwen3-moe-mlx": qt.GPTQ(**CHEAP | {"format": "mlx"}),
    "gptq": qt.GPTQ(**CHEAP),
    "gptq-mixed": qt.GPTQ(**CHEAP, rules={"*.[qkv]_proj": {"bits": 8}}),
    "packed": qt.GPTQ(**CHEAP, **PACKED),
    "packed-asym": qt.GPTQ(**CHEAP, **PACKED, sym=False),
    "gptq-96inputs": qt.GPTQ(**CHEAP | {"group_size": 96}),
    "gpt-oss-gptq": qt.GPTQ(**CHEAP),
    "gpt-oss-packed": qt.GPTQ(**CHEAP, **PACKED),
    "gpt-oss-fp8": qt.FP8(),
    "gpt-oss-int8": qt.W8A8(),
    "gpt-oss-nf4": qt.NF4(),
    "mixtral-packed-plain-experts": qt.GPTQ(**CHEAP, **PACKED, exclude=("lm_head", "*.experts.*")),
}


def _weights(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Its schemes with other keys."""
    groups = {name: group | {"weights": group["weights"] | changes} for name, group in values["config_groups"].items()}
    return values | {"config_groups": groups}


def _rounding_inputs(values: dict[str, Any]) -> dict[str, Any]:
    """The same schemes, with inputs rounded to float8 for each token."""
    inputs = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
    groups = {name: group | {"input_activations": inputs} for name, group in values["config_groups"].items()}
    return values | {"config_groups": groups}


# By their names in the model alone, where servers look for the matrix that they join.
_NAMED = {r"+:.*\.(q|k|v)_proj$": {"bits": 8}}
# What a copy is of, its `quantization_config` made from that one's, how it is stored then, and for which readers.
CHANGED: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]], dict[str, Any], tuple[str, ...]]] = {
    "gptq-misnamed-unit": (
        "gptq-mixed",
        lambda values: values | {"dynamic": _NAMED},
        {"misnamed_units": ("model.layers.0.self_attn.qkv_proj",)},
        ("vllm",),
    ),
    "gptq-said-5bit": (
        "gptq",
        lambda values: values | {"bits": 5},
        {"bits": (5,)},
        ("transformers", "transformers4", "auto-gptq"),
    ),
    "gptq-said-9bit": ("gptq", lambda values: values | {"bits": 9}, {"bits": (9,)}, ("gptqmodel",)),
    "packed-said-9bit": ("packed", lambda values: _weights(values, num_bits=9), {"bits": (9,)}, ("vllm",)),
    "packed-asym-not-expanded": (
        "packed-asym",
        lambda values: {key: value for key, value in values.items() if key != "run_compressed"},
        {"expands": False},
        ("transformers",),
    ),
    "packed-said-w4a8": (
        "packed",
        _rounding_inputs,
        {"input_type": W4A8},
        ("transformers", "transformers4"),
    ),
    "awq-said-8bit": ("awq", lambda values: values | {"bits": 8}, {"bits": (8,)}, ("mlx-lm",)),
    # Of AutoRound in GPTQ's packing vLLM takes 4 and 8 bits, symmetric, in some groups.
    "auto-round-said-3bit": ("auto-round-llama", lambda values: values | {"bits": 3}, {"bits": (3,)}, ("vllm",)),
    "auto-round-said-asym": ("auto-round-llama", lambda values: values | {"sym": False}, {"sym": False}, ("vllm",)),
    "auto-round-said-256inputs": (
        "auto-round-llama",
        lambda values: values | {"group_size": 256},
        {"group_sizes": (256,)},
        ("vllm",),
    ),
    "auto-round-said-other-packing": (
        "auto-round-llama",
        lambda values: values | {"packing_format": "auto_round"},
        {"layout": "auto_round"},
        ("vllm",),
    ),
    "awq-said-5bit": ("awq", lambda values: values | {"bits": 5}, {"bits": (5,)}, ("vllm",)),
}
# Written by AutoRound; its packing "awq" is AutoAWQ's. vLLM has no attention for heads of 16, which these have.
THEIRS = {"auto-round": "symmetric", "auto-round-awq": "awq"}
AWQ = {"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True}
# The tensors are those of GPTQ's first layout.
AUTO_ROUND = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "data_type": "int", "sym": True}
AUTO_ROUND |= {"bits": 4, "group_size": 32, "autoround_version": "0.16.1", "block_name_to_quantize": "model.layers"}


# As DeepSeek's are published.
BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def model_of(name: str) -> PreTrainedModel:
    """The model that the name of a checkpoint begins with."""
    model_type, changes = next((made for start, made in MODELS.items() if name.startswith(start)), ("", {}))
    if not model_type:
        return random_llama(dtype=torch.float16)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**changes), dtype=torch.float16)


def change(folder: Path, values: dict[str, Any]) -> None:
    """Give a folder another `quantization_config`, in all places that readers look for it."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(
        json.dumps(config | {key: values for key in ("quantization_config", "quantization") if key in config})
    )
    if (folder / "quantize_config.json").is_file():
        (folder / "quantize_config.json").write_text(json.dumps(values))


def values_of(folder: Path) -> dict[str, Any]:
    """The `quantization_config` of a folder."""
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return values


def write_awq(folder: Path, group_size: int, left: str = "") -> None:
    """A Llama in AWQ, packed by AutoAWQ's formula written out, but for the layers of one name."""
    model = model_of(folder.name)
    described = AWQ | {"group_size": group_size} | ({"modules_to_not_convert": [left]} if left else {})
    model.save_pretrained(folder)
    numbers().save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if name.endswith("_proj.weight") and not (left and left in name)]:
        stored, _ = quantize(tensors.pop(name), group_size)
        tensors |= {f"{name.removesuffix('.weight')}.{key}": value.contiguous() for key, value in stored.items()}
    save_file(tensors, file, {"format": "pt"})
    values = json.loads((folder / "config.json").read_text()) | {"quantization_config": described}
    (folder / "config.json").write_text(json.dumps(with_both_ages(values)))
    keep(qt.load(folder, device="cpu", dtype="float32").model, folder)


def write_float4(folder: Path, layout: str, left: str = "") -> None:
    """The same Llama with random floats of 4 bits as the layers of its blocks, but for those of one name."""
    random_llama(dtype=torch.bfloat16).save_pretrained(folder)
    numbers().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    config = float4_config(layout)
    for seed, name in enumerate([name for name in tensors if name.endswith("_proj.weight")]):
        stem = name.removesuffix(".weight")
        if left and stem.endswith(left):
            config["ignore"].append(stem)
            continue
        parts = float4_parts(*tensors.pop(name).shape, layout, seed)
        tensors |= {f"{stem}.{end}": part for end, part in parts.items()}
    write(folder, tensors, config)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(with_both_ages(values)))
    # Readers compute in this type too, whatever they are asked for.
    keep(qt.load(folder, device="cpu", dtype="bfloat16"), folder)


def write_cut_blocks(folder: Path, like: Path) -> None:
    """A Llama in blocks of which some lie across queries and keys: qtoolkit leaves such layers as they are."""
    store_as_float8(model_of(folder.name).bfloat16(), folder, values_of(like), (128, 128))
    tensors = load_file(folder / "model.safetensors")
    write(folder, {name.replace("weight_scale_inv", "weight_scale"): tensor for name, tensor in tensors.items()})
    numbers().save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(with_both_ages(values)))
    keep(model_of(folder.name), folder)
    claim(folder, None, only=("vllm",))


def write_auto_round(folder: Path, source: Path) -> None:
    """A GPTQ checkpoint in the words of AutoRound's config."""
    shutil.copytree(source, folder)
    (folder / "quantize_config.json").unlink(missing_ok=True)
    change(folder, AUTO_ROUND)
    keep(qt.load(folder, device="cpu", dtype="float32").model, folder)


def main(folder: Path) -> None:
    """Write all kinds."""
    folder.mkdir(parents=True)
    for name, config in MADE.items():
        qt.quantize(model_of(name), config, output=folder / name, overwrite=True, device="cpu", tokenizer=numbers())
        model = qt.load(folder / name, device="cpu", dtype="float32").model
        keep(model, folder / name)
        if isinstance(config, qt.FP8 | qt.W8A8):
            layers = {key: one for key, one in model.named_modules() if isinstance(one, QuantizedLinear)}
            keep_weights({key: layer.dequantize() for key, layer in layers.items()}, folder / name)
    random_llama(dtype=torch.float16).save_pretrained(folder / "plain")
    config = folder / "plain" / "config.json"
    config.write_text(json.dumps(with_both_ages(json.loads(config.read_text()))))
    keep(AutoModelForCausalLM.from_pretrained(folder / "plain", dtype=torch.float32), folder / "plain")
    for name, theirs in THEIRS.items():
        shutil.copytree(DATA / theirs, folder / name)
        keep(qt.load(folder / name, device="cpu", dtype="float32").model, folder / name, FEW)
    write_awq(folder / "awq", group_size=32)
    write_awq(folder / "awq-left-unit", group_size=32, left="gate_proj")
    for name in ("nvfp4", "mxfp4"):
        write_float4(folder / name, f"{name}-pack-quantized")
    write_float4(folder / "nvfp4-left-unit", "nvfp4-pack-quantized", left="gate_proj")
    store_as_float8(random_llama(dtype=torch.bfloat16), folder / "blocks-of-others", BLOCKS, (128, 128))
    keep(qt.load(folder / "blocks-of-others", device="cpu", dtype="float32"), folder / "blocks-of-others")
    write_auto_round(folder / "auto-round-llama", folder / "gptq")
    for path in list(folder.iterdir()):
        claim(path, None)
    write_awq(folder / "awq-256inputs", group_size=256)
    claim(folder / "awq-256inputs", None, only=("mlx-lm",))
    write_cut_blocks(folder / "fp8-cut-blocks", folder / "fp8-blocks")
    for name, (source, changed, how, readers) in CHANGED.items():
        shutil.copytree(folder / source, folder / name)
        change(folder / name, changed(values_of(folder / name)))
        claim(folder / name, None, of=folder / source, only=readers, **how)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
