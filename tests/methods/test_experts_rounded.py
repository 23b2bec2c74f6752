"""Methods that round each weight by itself round each expert's as a layer's, and store it under its own name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedConfig, PreTrainedModel, Qwen3MoeConfig
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

import qtoolkit as qt
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.methods import MethodConfig
from qtoolkit.models.experts_apart import named_as_saved
from qtoolkit.optional import optional
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.readers import needs_qtoolkit, reader_of
from tests.sample_models import plain_logits, random_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")]

GROUPS: dict[str, Any] = {"bits": 4, "granularity": "group", "group_size": 32}
# The names of an expert's gate, up and down layer in files, and where these are.
NAMES = {
    "mixtral": ("model.layers.{}.block_sparse_moe.experts.{}", ("w1", "w3", "w2")),
    "qwen3_moe": ("model.layers.{}.mlp.experts.{}", ("gate_proj", "up_proj", "down_proj")),
}
CASES: dict[str, tuple[str, MethodConfig]] = {
    "absmax": ("mixtral", qt.AbsMax(**GROUPS)),
    "absmax, native": ("qwen3_moe", qt.AbsMax(**GROUPS, format="native")),
    "zero-point": ("mixtral", qt.ZeroPoint(**GROUPS)),
    "NF4": ("mixtral", qt.NF4()),
    "NF4 of Qwen3": ("qwen3_moe", qt.NF4(double_quant=False)),
    "FP4": ("qwen3_moe", qt.FP4()),
    "FP8": ("qwen3_moe", qt.FP8()),
    "W8A8": ("mixtral", qt.W8A8()),
}
TOKENS = torch.arange(2, 34).reshape(1, 32)
every_case = pytest.mark.parametrize("case", CASES)
Made = dict[str, qt.QuantizedModel]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Every third from memory, the others from a folder."""
    folder = tmp_path_factory.mktemp("made")
    numbered = enumerate(CASES.items())
    for kind in NAMES:
        random_model(kind).save_pretrained(folder / kind)
    sources = {case: random_model(kind) if index % 3 == 0 else folder / kind for index, (case, (kind, _)) in numbered}
    return {
        case: qt.quantize(sources[case], config, device="cpu", output=folder / case)
        for case, (_, config) in CASES.items()
    }


@pytest.fixture(scope="module")
def loaded(made: Made) -> dict[str, PreTrainedModel]:
    """What `qt.load` reads of them; none has run."""
    return {case: qt.load(result.path, device="cpu").model for case, result in made.items() if result.path}


def expanded(layer: Any) -> torch.Tensor:
    if isinstance(layer, QuantizedLinear):
        return layer.dequantize()
    functional = optional("bitsandbytes.functional", "a test")
    before = getattr(layer, "_before_packing", None)
    assert before is None, "packed for products, which round its scales"
    weight: torch.Tensor = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight.float()


def upwards(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The least number of a type that is no less than each."""
    rounded = scale.to(dtype)
    step = 2.0 ** -(8 if dtype == torch.bfloat16 else 11)
    return torch.where(rounded.float() < scale, (scale * (1 + step)).to(dtype), rounded).float()


def by_formula(weight: torch.Tensor, config: Any) -> torch.Tensor:
    """One expert's weight [out, in], rounded by a formula, or by bitsandbytes alone."""
    if config.method in ("nf4", "fp4"):
        functional = optional("bitsandbytes.functional", "a test")
        how = {"quant_type": config.method, "compress_statistics": config.double_quant, "blocksize": 64}
        return functional.dequantize_4bit(*functional.quantize_4bit(weight, **how)).float()  # type: ignore[no-any-return]
    rows = weight.float()
    if config.method == "fp8":
        scale = upwards(rows.abs().amax(1, keepdim=True) / 448, torch.bfloat16)
        return (rows / scale).to(torch.float8_e4m3fn).float() * scale
    if config.method == "w8a8":
        scale = upwards(rows.abs().amax(1, keepdim=True) / 127, torch.bfloat16)
        return (rows / scale).round() * scale
    groups = rows.unflatten(1, (-1, 32))
    if config.method == "absmax":
        kind = torch.float16 if config.format == "native" else torch.bfloat16
        scale = upwards(groups.abs().amax(2, keepdim=True) / 7, kind)
        return ((groups / scale).round().clamp(-7, 7) * scale).flatten(1)
    low, high = groups.amin(2, keepdim=True).clamp(max=0), groups.amax(2, keepdim=True).clamp(min=0)
    scale = ((high - low) / 15).half().float()
    zero = (-8 - low / scale).round()
    return (((groups / scale + zero).round().clamp(-8, 7) - zero) * scale).flatten(1)


def whole(model: PreTrainedModel, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """gate_up_proj and down_proj of a layer, from its expanded experts."""
    gates, downs = [], []
    experts: Any = model.get_submodule(f"model.layers.{layer}.mlp.experts")
    for expert in experts:
        gate, up, down = (expanded(one) for one in list(expert.children())[:3])
        gates.append(torch.cat([gate, up]))
        downs.append(down)
    return torch.stack(gates), torch.stack(downs)


@every_case
def test_each_expert_is_rounded_alone(case: str, loaded: dict[str, PreTrainedModel]) -> None:
    kind, config = CASES[case]
    source = random_model(kind)
    for layer in range(2):
        fused: Any = source.get_submodule(f"model.layers.{layer}.mlp.experts")
        found = whole(loaded[case], layer)
        for index in range(4):
            gate, up = fused.gate_up_proj[index].detach().chunk(2)
            down = fused.down_proj[index].detach()
            expected = torch.cat([by_formula(gate, config), by_formula(up, config)]), by_formula(down, config)
            # A code on the border between two may be either, as sums of float32 round.
            for one, other in zip(found, expected, strict=True):
                away = (one[index] - other).abs() > 1e-3 * other.abs().max()
                assert away.float().mean() < 2e-3


@every_case
def test_logits_are_those_of_the_dense_model_with_these_weights(case: str, loaded: dict[str, PreTrainedModel]) -> None:
    kind, config = CASES[case]
    source = random_model(kind, dtype=torch.float32)
    for name, module in loaded[case].named_modules():
        if ".experts." not in name and hasattr(module, "in_features") and name != "lm_head":
            source.get_submodule(name).weight.data = expanded(module)
    for layer in range(2):
        experts: Any = source.get_submodule(f"model.layers.{layer}.mlp.experts")
        experts.gate_up_proj.data, experts.down_proj.data = whole(loaded[case], layer)
    expected, found = plain_logits(source, TOKENS), plain_logits(loaded[case], TOKENS).float()
    # bfloat16 rounds products, and FP8 and W8A8 round inputs to 8 bits.
    allowed = 0.05 if config.input_type else 0.025
    assert (found - expected).norm() < allowed * expected.norm()


@every_case
def test_planned_is_measured_and_most_weights_are_taken(case: str, made: Made) -> None:
    kind, config = CASES[case]
    plan = qt.plan(random_model(kind), config, device="cpu")
    assert memory_footprint(made[case].model) == plan.footprint_after
    left = {layer.name.rpartition(".")[2] for layer in plan.skipped if len(layer.shape) == 2}
    assert left == {"embed_tokens", "lm_head", "gate"}


@every_case
def test_experts_are_stored_by_the_names_of_published_checkpoints(case: str, made: Made) -> None:
    path = made[case].path
    assert path is not None
    with safe_open(path / "model.safetensors", "pt") as file:
        stored = set(file.keys())
    where, names = NAMES[CASES[case][0]]
    layers = {f"{where.format(layer, expert)}.{name}" for layer in range(2) for expert in range(4) for name in names}
    assert all(any(one.startswith(f"{layer}.") for one in stored) for layer in layers)
    # Nothing of the two large tensors is left.
    assert not [one for one in stored if one.endswith(("gate_up_proj", "experts.down_proj"))]


@pytest.mark.parametrize("case", [case for case, (_, config) in CASES.items() if config.method not in ("fp8", "w8a8")])
def test_it_is_read_again_by_us_and_by_transformers(case: str, made: Made, loaded: dict[str, PreTrainedModel]) -> None:
    logits = plain_logits(made[case].model, TOKENS)
    assert torch.equal(plain_logits(loaded[case], TOKENS), logits)
    by_transformers = AutoModelForCausalLM.from_pretrained(made[case].path, dtype="auto", device_map="cpu")
    # It expands compressed-tensors at the first call.
    with torch.no_grad():
        found = by_transformers(TOKENS).logits
    torch.testing.assert_close(found, logits, rtol=0, atol=0.01)


def test_a_model_that_was_read_is_saved_as_it_was(made: Made, tmp_path: Path) -> None:
    path = made["NF4"].path
    assert path is not None
    qt.load(path, device="cpu").save(tmp_path / "again")
    names = []
    for folder in (path, tmp_path / "again"):
        with safe_open(folder / "model.safetensors", "pt") as file:
            names.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  # it is no mapping
    assert names[0].keys() == names[1].keys()
    assert all(torch.equal(tensor, names[1][name]) for name, tensor in names[0].items())


def test_no_weight_of_a_model_in_memory_is_copied() -> None:
    model = random_model("mixtral")
    state = model.state_dict()
    apart = named_as_saved(model, state)
    owned = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    assert {tensor.untyped_storage().data_ptr() for tensor in apart.values()} == owned
    up = state["model.layers.1.mlp.experts.gate_up_proj"][2, 128:]
    assert torch.equal(apart["model.layers.1.block_sparse_moe.experts.2.w3.weight"], up)


def test_transformers_alone_refuses_4_bit_experts(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some versions do so at the first product."""
    monkeypatch.setitem(AUTO_QUANTIZER_MAPPING, "bitsandbytes_4bit", Bnb4BitHfQuantizer)
    with pytest.raises(RuntimeError):
        plain_logits(AutoModelForCausalLM.from_pretrained(made["NF4"].path, device_map="cpu"), TOKENS)


def test_that_qtoolkit_is_needed_is_told(made: Made) -> None:
    kind, config = CASES["NF4"]
    plan = qt.plan(random_model(kind), config, device="cpu", for_="transformers")
    assert plan.reading is not None and not plan.reading.loads
    assert "quantized experts of MixtralForCausalLM" in plan.reading.why
    assert made["NF4"].path is not None
    artifact = open_artifact(made["NF4"].path)
    assert reader_of(artifact).description == "once qtoolkit is imported"
    assert artifact.receipt is not None and not needs_qtoolkit(artifact.receipt, None)


def test_routers_are_named_for_transformers_4(made: Made) -> None:
    """It has linear layers in their place, and takes all that no list names for quantized."""
    assert made["NF4"].path is not None
    values = json.loads((made["NF4"].path / "config.json").read_bytes())["quantization_config"]
    routers = [f"model.layers.{layer}.block_sparse_moe.gate" for layer in range(2)]
    assert values["llm_int8_skip_modules"] == ["lm_head", *routers]


@pytest.mark.parametrize("config", [qt.NF4(), qt.ZeroPoint(**GROUPS)], ids=["NF4", "native"])
def test_files_whose_experts_are_whole_are_planned_so(config: Any, tmp_path: Path) -> None:
    """As transformers' load_in_4bit makes them, and as earlier versions made all."""
    excluded = type(config).from_dict({**config.to_dict(), "exclude": ("lm_head", "experts.*")})
    result = qt.quantize(random_model("mixtral"), excluded, device="cpu", output=tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    values = json.loads(file.read_bytes())
    options = values["quantization_config"].get("options", {})
    if "exclude" in options:
        options["exclude"] = ["lm_head"]
        file.write_text(json.dumps(values), encoding="utf-8")
    read = qt.load(tmp_path / "out", device="cpu")
    assert (
        read.report.memory.footprint_after
        == read.report.memory.predicted_footprint_after
        == memory_footprint(result.model)
    )
    assert torch.equal(plain_logits(read.model, TOKENS), plain_logits(result.model, TOKENS))


LARGE: dict[str, tuple[PreTrainedConfig, float]] = {
    "Mixtral-8x7B": (MixtralConfig(dtype="bfloat16"), 28e9),
    "Qwen3-30B-A3B": (
        Qwen3MoeConfig(
            hidden_size=2048, num_hidden_layers=48, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768,
            vocab_size=151_936, num_attention_heads=32, num_key_value_heads=4, head_dim=128, tie_word_embeddings=False,
            dtype="bfloat16",
        ),
        19e9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("config", [qt.AbsMax(**GROUPS | {"group_size": 128}), qt.NF4()], ids=["absmax", "NF4"])
@pytest.mark.parametrize("name", LARGE)
def test_large_mixtures_become_small(name: str, config: Any) -> None:
    model, limit = LARGE[name]
    plan = qt.plan(model, config, device="cpu")
    assert plan.footprint_after < limit
    assert not plan.warnings
