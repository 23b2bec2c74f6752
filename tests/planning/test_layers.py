"""What a plan says of each module: quantized, adjusted, or skipped with the reason."""

from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.records import Plan
from tests.sample_models import random_model


def _reasons(plan: Plan) -> dict[str, str]:
    return {layer.name: layer.skipped for layer in plan.skipped}


def test_what_stays_is_listed_with_its_reason(tiny_llama: Path) -> None:
    reasons = _reasons(qt.plan(tiny_llama, "nf4", device="cpu"))
    assert reasons["lm_head"] == "excluded by name"
    assert reasons["model.embed_tokens"] == "embedding"
    assert reasons["model.norm"] == "norm"
    assert reasons["model.layers.1.input_layernorm"] == "norm"


@pytest.mark.parametrize("exclude", [(), ("lm_head",)], ids=["nothing-excluded", "head-excluded"])
def test_a_tied_head_is_never_quantized_alone(exclude: tuple[str, ...]) -> None:
    plan = qt.plan(random_model("llama_tied"), qt.Int8(exclude=exclude), device="cpu")
    assert _reasons(plan)["lm_head"] == "shares its weight with model.embed_tokens"


def test_an_untied_head_is_quantized_when_asked() -> None:
    plan = qt.plan(random_model("llama"), qt.Int8(exclude=()), device="cpu")
    assert "lm_head" in {layer.name for layer in plan.layers}


def test_experts_in_one_tensor_are_named() -> None:
    reasons = _reasons(qt.plan(random_model("mixtral"), "int8", device="cpu"))
    assert reasons["model.layers.0.mlp.experts"] == "experts in one tensor (MixtralExperts)"


def test_a_group_size_that_does_not_divide_is_adjusted_and_said() -> None:
    model = random_model("llama", intermediate_size=96)
    plan = qt.plan(model, qt.AbsMax(granularity="group", group_size=64, format="native"), device="cpu")
    adjusted = {layer.name: layer.adjusted for layer in plan.layers if layer.adjusted}
    assert adjusted == {
        f"model.layers.{index}.mlp.down_proj": "group_size 48 instead of 64, which does not divide" for index in (0, 1)
    }
    assert "group_size 48 instead of 64" in str(plan)
    assert "group_size 48 instead of 64" in str(
        qt.quantize(model, qt.AbsMax(granularity="group", format="native"), device="cpu")
    )


def test_a_group_size_that_divides_no_layer_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match=r"group_size 100 divides the inputs of no layer \(64, 128\); 128, 64, 32"):
        qt.plan(tiny_llama, qt.ZeroPoint(granularity="group", group_size=100), device="cpu")


def test_a_model_with_nothing_to_do_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"nf4 finds no layer to quantize in .*: embedding, excluded by name, norm"
    ):
        qt.plan(tiny_llama, qt.NF4(exclude=("*",)), device="cpu")


def test_tied_weights_count_once(smollm2: Path) -> None:
    plan = qt.plan(smollm2, "nf4", device="cpu")
    assert plan.source.num_parameters == 134_515_008
    # 256 bytes of them are the two float32 buffers of the rotary embedding.
    assert plan.source.footprint == 269_030_272


def test_a_plan_reads_no_weight(tiny_llama: Path, tmp_path: Path) -> None:
    """Zeros in place of all weights give the same plan: a sparse file of the right length holds none of them."""
    for file in tiny_llama.iterdir():
        target = tmp_path / file.name
        target.write_bytes(file.read_bytes())
        if file.suffix == ".safetensors":
            header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
            with target.open("r+b") as stream:
                stream.truncate(header)
                stream.truncate(file.stat().st_size)
    real, empty = (qt.plan(folder, "int8", device="cpu").to_dict() for folder in (tiny_llama, tmp_path))
    assert real["layers"] == empty["layers"]
