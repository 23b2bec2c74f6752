"""A source in FP8 or MXFP4 gives what its expanded copy gives: plans, results of every method, figures, receipts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

import qtoolkit as qt
from qtoolkit.publishing.receipt_file import read_receipt
from tests.coded_models import gpt_oss, store_as_float8, store_as_mxfp4
from tests.sample_models import random_model

TEXT = ["a boat carries seven lamps and a bell of brass to the harbour of the town " * 8]
ROWS = [[1, *((7 * row + 13 * index) % 250 + 3 for index in range(40))] for row in range(8)]
CALIBRATED = {"calibration": ROWS, "num_samples": 4, "seq_len": 32}
FP8_CONFIG = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
METHODS: dict[str, Callable[[], Any]] = {
    "nf4": qt.NF4,
    "int8": qt.Int8,
    "absmax": qt.AbsMax,
    "zeropoint": qt.ZeroPoint,
    "fp8": qt.FP8,
    "gptq": lambda: qt.GPTQ(group_size=32, **CALIBRATED),
    "gptq as compressed-tensors": lambda: qt.GPTQ(group_size=32, format="compressed-tensors", **CALIBRATED),
}


def float8(folder: Path) -> Path:
    left = ("down_proj",)
    config = FP8_CONFIG | {"modules_to_not_convert": ["lm_head", *left]}
    return store_as_float8(random_model("qwen3"), folder, config, (32, 32), left)


def mxfp4(folder: Path) -> Path:
    return store_as_mxfp4(gpt_oss(), folder)


def words() -> PreTrainedTokenizerFast:
    """Some words, each a token."""
    vocabulary = {"<s>": 1, "</s>": 2} | {word: 3 + index for index, word in enumerate(sorted({*TEXT[0].split()}))}
    tokenizer = Tokenizer(WordLevel(vocabulary, "<s>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


SOURCES = {"FP8 in blocks of 32 x 32": float8, "MXFP4": mxfp4}
Pair = tuple[str, Path, Path]


@pytest.fixture(scope="module", params=SOURCES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """How a source is stored, the source, and a copy of it in bfloat16."""
    folder = tmp_path_factory.mktemp("sources")
    coded = SOURCES[request.param](folder / "coded")
    qt.load(coded, device="cpu").save_pretrained(folder / "expanded")
    return request.param, coded, folder / "expanded"


def quantized(model: Path, config: Any, output: Path) -> Any:
    return qt.quantize(model, config, output=output, device="cpu")


# Every method reads weights in one of two ways: as they are loaded, or block by block.
RUNS = [*(("FP8 in blocks of 32 x 32", method) for method in METHODS), ("MXFP4", "nf4"), ("MXFP4", "gptq")]


@pytest.mark.parametrize(("pair", "method"), RUNS, indirect=["pair"])
def test_every_method_makes_of_it_what_it_makes_of_the_expanded_copy(method: str, pair: Pair, tmp_path: Path) -> None:
    kind, coded, expanded = pair
    config = METHODS[method]()
    result = quantized(coded, config, tmp_path / "ours")
    expected = quantized(expanded, config, tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert not any(name.endswith(("weight_scale_inv", "_blocks")) for name in ours)
    for name, tensor in ours.items():
        assert torch.equal(tensor.view(torch.uint8), theirs[name].view(torch.uint8)), name
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "theirs")]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]
    assert configs[0]["quantization_config"]["quant_method"] not in ("fp8", "mxfp4")
    assert result.memory.footprint_before == expected.memory.footprint_before
    assert result.memory.disk_before == (coded / "model.safetensors").stat().st_size
    assert any(f"stored as {kind}," in note for note in result.report.notes)


def test_a_plan_reads_the_bytes_that_are_stored_and_holds_what_is_expanded(pair: Pair) -> None:
    kind, coded, expanded = pair
    for config in (qt.NF4(), qt.GPTQ(group_size=32, **CALIBRATED)):
        ours, theirs = (qt.plan(model, config, device="cpu") for model in (coded, expanded))
        assert (ours.source.footprint, ours.footprint_after) == (theirs.source.footprint, theirs.footprint_after)
        assert ours.source.stored_as == kind
        assert ours.source.disk_size < theirs.source.disk_size
        saved = theirs.source.disk_size - ours.source.disk_size
        moved = [{phase.name: phase.bytes_moved for phase in plan.phases}["quantize"] for plan in (ours, theirs)]
        assert 0.95 * saved < moved[1] - moved[0] < 1.05 * saved
        (extra,) = (term for term in ours.phases[0].memory if term.name == "weights while they are expanded")
        assert extra.size > 0
        assert any(f"stored as {kind}," in note for note in ours.notes)


@pytest.mark.slow
def test_figures_of_a_result_compare_with_the_expanded_source(pair: Pair, tmp_path: Path) -> None:
    _, coded, expanded = pair
    text = {"text": TEXT, "seq_len": 16, "num_tokens": 64, "device": "cpu", "tokenizer": words()}
    result = quantized(coded, qt.NF4(), tmp_path / "result")
    ours, theirs = (qt.evaluate(result, base=base, **text) for base in (coded, expanded))
    assert ours.kl_divergence == theirs.kl_divergence > 0
    assert ours.base_perplexity == theirs.base_perplexity
    assert any("expanded" in note for note in ours.notes)
    alone = qt.evaluate(coded, base=expanded, **text)
    assert alone.kl_divergence == 0
    compared = qt.compare(coded, ["nf4", None], prompts=(), resume=False, **text)
    assert [row.quality.kl_divergence for row in compared.results] == [0, ours.kl_divergence]
    assert compared.source.stored_as


def test_the_receipt_tells_how_the_source_is_stored(pair: Pair, tmp_path: Path) -> None:
    kind, coded, _ = pair
    quantized(coded, qt.NF4(), tmp_path / "result")
    receipt = read_receipt(tmp_path / "result")
    assert receipt is not None
    assert receipt.source.stored_as == kind
    assert any(f"stored as {kind}," in note for note in receipt.notes)


def test_a_result_that_is_larger_than_its_source_is_told(tmp_path: Path) -> None:
    """The experts of gpt-oss stay as they are in int8: expanded."""
    folder = mxfp4(tmp_path / "model")
    plan = qt.plan(folder, "int8", device="cpu")
    (note,) = (note for note in plan.notes if "more than" in note)
    assert note.startswith("the result takes ")
    assert note.endswith("of its source in MXFP4: what is not quantized stays expanded")
    assert note in qt.quantize(folder, "int8", device="cpu").report.notes
    assert any("experts in one tensor" in layer.skipped for layer in plan.skipped)
    assert not any("more than" in note for note in qt.plan(float8(tmp_path / "other"), "int8", device="cpu").notes)
