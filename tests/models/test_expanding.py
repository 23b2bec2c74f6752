"""Models that are stored as FP8 and MXFP4 are opened as what transformers expands them to."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config, PreTrainedModel

import qtoolkit as qt
from qtoolkit.errors import SourceError
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.requests import ModelSource
from scripts.small_models import small_model
from tests.coded_models import (
    WEIGHTS,
    expand_float4,
    float4_parts,
    float8_blocks,
    gpt_oss,
    store_as_float8,
    store_as_mxfp4,
    write,
)
from tests.sample_models import random_model

FP8_CONFIG = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
TOKENS = torch.arange(3, 35)[None]
# Published in FP8 alone, experts and all.
MIXTURES = ("deepseek_v3", "deepseek_v4", "minimax_m2")
# Colab's transformers (5.15) gives DeepSeek-V4's attention float32 where its weights are bfloat16.
RUN = tuple(kind for kind in MIXTURES if kind != "deepseek_v4" or Version(transformers.__version__) >= Version("5.20"))


def opened(folder: Path, **how: bool) -> Checkpoint:
    return open_source(folder, ModelSource(), **how)


def float8_folder(architecture: str, folder: Path, **config: Any) -> Path:
    build = small_model if architecture in MIXTURES else random_model
    model = build(architecture, dtype=torch.bfloat16)
    return store_as_float8(
        model, folder, FP8_CONFIG | config, (32, 32), tuple(config.get("modules_to_not_convert", ()))
    )


def loaded(folder: Path, config: Any = None) -> PreTrainedModel:
    options = {} if config is None else {"quantization_config": config}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options).eval()


def assert_same(ours: PreTrainedModel, theirs: PreTrainedModel) -> None:
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name
    with torch.no_grad():
        assert torch.equal(type(ours).forward(ours, TOKENS).logits, theirs(TOKENS).logits)


# Of each kind: grouped heads, norms of heads, experts that are stored one by one.
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "qwen3_moe"])
def test_fp8_is_what_transformers_expands_it_to(architecture: str, tmp_path: Path) -> None:
    folder = float8_folder(architecture, tmp_path, modules_to_not_convert=["o_proj"])
    ours = qt.load(folder, device="cpu")
    assert isinstance(ours, PreTrainedModel)
    assert getattr(ours.config, "quantization_config", None) is None
    assert_same(ours, loaded(folder, FineGrainedFP8Config(weight_block_size=(32, 32), dequantize=True)))


@pytest.mark.parametrize("architecture", RUN)
def test_a_mixture_in_fp8_is_its_copy_in_bfloat16(architecture: str, tmp_path: Path) -> None:
    """Whose parts that correct scores of routers, or mix streams, transformers keeps in float32."""
    folder = float8_folder(architecture, tmp_path / "coded")
    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(folder / WEIGHTS)
    for name in [name for name in tensors if name.endswith("_scale_inv")]:
        weight = tensors[name.removesuffix("_scale_inv")]
        scales = torch.kron(tensors.pop(name).double(), torch.ones(32, 32, dtype=torch.float64))
        expanded = weight.double() * scales[: weight.shape[0], : weight.shape[1]]
        tensors[name.removesuffix("_scale_inv")] = expanded.to(torch.bfloat16)
    assert any(".experts." in name for name in tensors)
    write(copy, tensors)
    config = json.loads((copy / "config.json").read_text())
    del config["quantization_config"]
    (copy / "config.json").write_text(json.dumps(config))
    ours = qt.load(folder, device="cpu")
    assert isinstance(ours, PreTrainedModel)
    assert_same(ours, loaded(copy))


@pytest.mark.skipif("deepseek_v4" not in RUN, reason="this transformers does not run it")
def test_experts_in_mxfp4_beside_fp8_are_their_copy_in_bfloat16(tmp_path: Path) -> None:
    """As DeepSeek-V4 is published: each number by its own formula, all others of the folder as above."""
    folder = float8_folder("deepseek_v4", tmp_path / "coded")
    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(folder / WEIGHTS)
    plain = dict(tensors)
    for seed, name in enumerate([name for name in tensors if ".experts." in name and name.endswith(".weight")]):
        parts = float4_parts(*tensors[name].shape, "mxfp4-pack-quantized", seed)
        tensors[name] = parts["weight_packed"].view(torch.int8)
        tensors.pop(f"{name}_scale_inv", None)
        tensors[f"{name.removesuffix('.weight')}.scale"] = parts["weight_scale"].view(torch.float8_e8m0fnu)
        plain.pop(f"{name}_scale_inv", None)
        plain[name] = expand_float4(parts, "mxfp4-pack-quantized")
    write(folder, tensors)
    write(copy, plain)
    assert_same(qt.load(folder, device="cpu"), qt.load(copy, device="cpu"))


def test_mxfp4_is_what_transformers_expands_it_to(tmp_path: Path) -> None:
    folder = store_as_mxfp4(gpt_oss(), tmp_path)
    ours = qt.load(folder, device="cpu")
    assert isinstance(ours, PreTrainedModel)
    assert_same(ours, loaded(folder, Mxfp4Config(dequantize=True)))


def test_an_opened_source_is_in_full_precision_and_says_where_from(tmp_path: Path) -> None:
    checkpoint = opened(float8_folder("llama", tmp_path))
    assert checkpoint.quantization is None
    assert checkpoint.config.to_dict().get("quantization_config") is None
    assert checkpoint.dtype == torch.bfloat16
    assert all(tensor.dtype == torch.bfloat16 for tensor in checkpoint.tensors.values())
    assert checkpoint.stored_as == checkpoint.record().stored_as == "FP8 in blocks of 32 x 32"
    assert "bfloat16 expanded from FP8 in blocks of 32 x 32" in str(checkpoint.record())
    (note,) = (note for note in checkpoint.notes if "expanded" in note)
    assert note.startswith("its weights are stored as FP8 in blocks of 32 x 32,")
    assert note.endswith("all figures compare with the expanded model")
    files = sum(tensor.nbytes for tensor in load_file(tmp_path / WEIGHTS).values())
    assert checkpoint.read_bytes == files
    assert checkpoint.weight_bytes == checkpoint.record().footprint - _buffers(checkpoint)


def _buffers(checkpoint: Checkpoint) -> int:
    return sum(buffer.nbytes for buffer in {id(one): one for one in checkpoint.skeleton.buffers()}.values())


def test_the_type_is_bfloat16_unless_the_config_names_another(tmp_path: Path) -> None:
    folder = float8_folder("llama", tmp_path)
    values = json.loads((folder / "config.json").read_text())
    for named, expected in (("float16", torch.float16), (None, torch.bfloat16)):
        values.pop("torch_dtype", None)
        (folder / "config.json").write_text(json.dumps(values | {"dtype": named}))
        checkpoint = opened(folder)
        assert checkpoint.dtype == checkpoint.tensors["model.layers.0.mlp.up_proj.weight"].dtype == expected


def test_one_scale_for_each_output_as_compressed_tensors_has_it(tmp_path: Path) -> None:
    """As a source and as a base of figures it is expanded, whether its own format reads it or not."""
    random_model("llama").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    expected = {}
    for name, weight in list(tensors.items()):
        if name.endswith("proj.weight"):
            codes, scales = float8_blocks(weight, (1, weight.shape[1]))
            tensors[name], tensors[f"{name}_scale"] = codes, scales.to(torch.bfloat16)
            expected[name] = (codes.double() * scales.to(torch.bfloat16).double()).to(torch.bfloat16)
    scheme = {"type": "float", "num_bits": 8, "strategy": "channel", "symmetric": True, "dynamic": False}
    groups = {"group_0": {"targets": ["Linear"], "weights": scheme}}
    config = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}
    write(tmp_path, tensors, config | {"ignore": ["lm_head"], "quantization_status": "compressed"})
    for checkpoint in (opened(tmp_path), opened(tmp_path, quantized=True, expands=True)):
        assert checkpoint.stored_as == "FP8"
        assert not checkpoint.skeleton_notes
        for name, weight in expected.items():
            assert torch.equal(checkpoint.tensors[name][...], weight)


def test_other_codes_are_refused_as_before(tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)
    write(tmp_path, load_file(tmp_path / WEIGHTS), {"quant_method": "awq", "bits": 4})
    with pytest.raises(SourceError, match="is quantized already"):
        qt.plan(tmp_path, "nf4")


def test_codes_without_scales_are_refused_before_work(tmp_path: Path) -> None:
    folder = float8_folder("llama", tmp_path)
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight_scale_inv"]
    write(folder, tensors)
    for call in (
        lambda: qt.plan(folder, "nf4"),
        lambda: qt.quantize(folder, "nf4"),
        lambda: qt.load(folder),
        lambda: qt.evaluate(folder, text=["some text"]),
    ):
        with pytest.raises(SourceError, match=r"up_proj\.weight' as FP8, and no scales of it") as caught:
            call()
        assert "\n" not in str(caught.value)


NO_NUMBER: dict[str, tuple[Callable[[Path], Path], str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "FP8": (lambda folder: float8_folder("llama", folder), "up_proj.weight_scale_inv", lambda scale: scale * torch.nan),
    "MXFP4": (
        lambda folder: store_as_mxfp4(gpt_oss(), folder),
        "gate_up_proj_scales",
        lambda exponents: exponents.clamp(min=255),
    ),
}


@pytest.mark.parametrize("kind", NO_NUMBER)
def test_scales_that_are_no_number_are_refused_before_work(kind: str, tmp_path: Path) -> None:
    """The last ones, which a job would read after all others."""
    make, part, change = NO_NUMBER[kind]
    folder = make(tmp_path / "model")
    tensors = load_file(folder / WEIGHTS)
    *_, last = (name for name in sorted(tensors) if name.endswith(part))
    write(folder, tensors | {last: change(tensors[last])})
    phases: list[str] = []
    for call in (
        lambda: qt.quantize(
            folder, "nf4", output=tmp_path / "out", on_progress=lambda event: phases.append(event.phase)
        ),
        lambda: qt.load(folder),
        lambda: qt.evaluate(folder, text=["some text"]),
    ):
        with pytest.raises(SourceError, match=r"stands for NaN|is NaN") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not phases and [path.name for path in tmp_path.iterdir()] == ["model"]
