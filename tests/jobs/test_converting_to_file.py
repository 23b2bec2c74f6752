"""Codes go into the blocks of a `.gguf` file unchanged: the `gguf` package finds the numbers of the source there."""

import json
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.checkpoints.gguf_header import read_gguf
from qtoolkit.errors import ConfigError
from qtoolkit.formats.layer_codes import LayerCodes
from qtoolkit.publishing import read_receipt
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.card import make_card
from qtoolkit.publishing.verifier import check_files
from qtoolkit.records import ProgressEvent, TakenOver, Verification
from qtoolkit.requests import PublishRequest
from tests.formats.auto_round.test_auto_round_reading import DATA, expanded
from tests.formats.awq import awq_files
from tests.jobs.converted import weights_of
from tests.jobs.file_weights import GROUPS, coded_names, gptq, made, mlx, packed, same, tensors_in, types_in, weights_in
from tests.sample_models import plain_logits

pytestmark = pytest.mark.slow

EXACT: dict[str, tuple[Callable[[Path], Path], str, dict[str, Any]]] = {
    "GPTQ, 4 bits": (gptq, "Q4_0", {}),
    "GPTQ, 8 bits, one scale an output": (lambda folder: gptq(folder, bits=8, group_size=-1), "Q8_0", {}),
    "GPTQ of Mixtral": (lambda folder: gptq(folder, architecture="mixtral"), "Q4_0", {}),
    "GPTQ of GPT-2": (lambda folder: gptq(folder, architecture="gpt2"), "Q4_0", {}),
    "GPTQ of Qwen2, groups of 64": (lambda folder: gptq(folder, architecture="qwen2", group_size=64), "Q4_0", {}),
    "compressed-tensors, 5 bits": (lambda folder: packed(folder, bits=5), "Q5_0", {}),
    "MLX, embeddings too": (mlx, "Q4_0", {}),
    "absmax, native": (lambda folder: made(folder, qt.AbsMax(bits=8, format="native", **GROUPS)), "Q8_0", {}),
    "3 bits when asked": (lambda folder: gptq(folder, bits=3), "Q4_0", {"wider": True}),
    "6 bits when asked": (lambda folder: packed(folder, bits=6), "Q8_0", {"wider": True}),
    "zero points, when asked": (lambda folder: gptq(folder, sym=False), "Q5_0", {"wider": True}),
}


@pytest.mark.parametrize("title", EXACT)
def test_the_file_holds_the_same_numbers(title: str, tmp_path: Path) -> None:
    write, type_, options = EXACT[title]
    source = write(tmp_path)
    record = qt.convert(source, "gguf", tmp_path / "out", **options)
    assert not record.lossy
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    shapes = {name: tuple(dense[f"{name}.weight"].shape) for name in coded_names(source)}
    if title == "GPTQ of GPT-2":
        # [in, out] there.
        expected = {name: dense[f"{name}.weight"].double().numpy().T for name in shapes}
    else:
        expected = weights_of(source, shapes)  # type: ignore[arg-type]
    same(expected, weights_in(tmp_path / "out", shapes))
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config == {"quant_method": "gguf", "quant_type": type_, "file": f"{source.name}-{type_}.gguf"}
    assert type_ in types_in(tmp_path / "out").values()


def test_auto_rounds_own_folder_keeps_the_bits_of_each_layer(tmp_path: Path) -> None:
    qt.convert(DATA / "symmetric", "gguf", tmp_path / "out")
    expected = {
        name.removesuffix(".weight"): weight.numpy()
        for name, weight in expanded("symmetric").items()
        if weight.dtype == torch.float64
    }
    same(expected, weights_in(tmp_path / "out", expected))
    types = types_in(tmp_path / "out")
    assert (types["blk.0.ffn_down.weight"], types["blk.0.ffn_up.weight"]) == ("Q8_0", "Q4_0")


@pytest.mark.parametrize("kind", ["GPTQ", "AWQ"])
def test_a_zero_point_becomes_a_rounded_minimum_on_request(kind: str, tmp_path: Path) -> None:
    """The codes stay, and the change that is told is the largest one of all weights."""
    if kind == "GPTQ":
        source = gptq(tmp_path, sym=False)
    else:
        awq_files.write_checkpoint(awq_files.Recipe(), tmp_path)
        source = tmp_path / "packed"
    with pytest.raises(
        ConfigError, match=r"has asymmetric codes of 4 bits \(\S+\), which .*: give lossy=True .* or wider="
    ):
        qt.convert(source, "gguf", tmp_path / "out")
    record = qt.convert(source, "gguf", tmp_path / "out", lossy=True)
    assert record.lossy
    names = coded_names(source)
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    before = {name: dense[f"{name}.weight"].double().numpy() for name in names}
    after = weights_in(tmp_path / "out", names)
    assert {types_in(tmp_path / "out")["blk.1.ffn_up.weight"]} == {"Q4_1"}
    moved = {name: float(np.abs(after[name] - weight).max()) for name, weight in before.items()}
    worst = max(moved, key=moved.__getitem__)
    (note,) = [note for note in record.notes if note.startswith("lossy:")]
    found = re.fullmatch(
        r"lossy: rounding minima to float16 moves weights by (\S+) at most, (\S+)% of a step between codes, in (\S+)",
        note,
    )
    assert found is not None and moved[worst] > 0
    assert float(found[1]) == pytest.approx(moved[worst], rel=0.06) and moved[found[3]] == pytest.approx(
        moved[worst], 0.01
    )
    receipt = read_receipt(tmp_path / "out")
    assert receipt is not None and note in receipt.notes
    # Each weight less its minimum is a whole number of steps, the code that there was.
    scale = load_file(source / "model.safetensors")[f"{names[0]}.scales"].double().numpy().T.repeat(32, axis=1)
    steps = (after[names[0]] - before[names[0]]) / scale
    assert np.abs(steps).max() < 0.02


def test_the_rest_is_what_a_file_in_16_bits_has(tmp_path: Path) -> None:
    """Tensors, and every value of the header but for the type and the name."""
    source = gptq(tmp_path, architecture="qwen2")
    qt.convert(source, "gguf", tmp_path / "out")
    qt.quantize(tmp_path / "dense", qt.GGUF("F16"), output=tmp_path / "plain", device="cpu")
    own, plain = tensors_in(tmp_path / "out"), tensors_in(tmp_path / "plain")
    assert own.keys() == plain.keys()
    for name, tensor in own.items():
        if tensor.tensor_type.name != "Q4_0":
            assert tensor.tensor_type == plain[name].tensor_type and np.array_equal(tensor.data, plain[name].data), name
    assert {name for name, type_ in types_in(tmp_path / "out").items() if type_ == "F16"} == {
        "token_embd.weight",
        "output.weight",
    }


@pytest.fixture(scope="module")
def of_our_own(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with a tokenizer that was quantized here, `made`, and converted, `out`."""
    folder = tmp_path_factory.mktemp("own")
    config = qt.AbsMax(bits=4, format="compressed-tensors", **GROUPS)
    qt.quantize(tiny_llama, config, output=folder / "made", device="cpu")
    qt.convert(folder / "made", "gguf", folder / "out")
    return folder


def test_tokenizer_and_metadata_are_those_of_the_model(of_our_own: Path, tiny_llama: Path, tmp_path: Path) -> None:
    qt.quantize(tiny_llama, qt.GGUF("BF16"), output=tmp_path / "plain", device="cpu")
    own, plain = (read_gguf(next(folder.glob("*.gguf"))).values for folder in (of_our_own / "out", tmp_path / "plain"))
    assert {key for key in own if own[key] != plain[key]} == {"general.file_type", "general.name"}
    assert own.keys() == plain.keys()
    assert {path.name for path in (of_our_own / "out").iterdir()} - {"made-Q4_0.gguf"} == {
        path.name for path in (tmp_path / "plain").iterdir()
    } - {"tiny-llama-BF16.gguf"}


def test_the_folder_tells_how_its_codes_were_chosen(of_our_own: Path) -> None:
    made, receipt = (read_receipt(of_our_own / name) for name in ("made", "out"))
    assert made is not None and receipt is not None
    assert (receipt.method, receipt.settings["quant_type"]) == ("gguf", "Q4_0")
    assert (receipt.source, receipt.taken_over) == (made.source, TakenOver(recipe=made.recipe, format="gguf"))
    assert receipt.num_layers == made.num_layers == 14
    assert receipt.num_quantized == made.num_quantized == 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128)
    tensors = tensors_in(of_our_own / "out").values()
    assert receipt.memory.footprint_after == sum(int(tensor.n_bytes) for tensor in tensors)
    assert {*receipt.dtypes} == {"Q4_0", "BF16", "F32"}
    text = make_card(receipt, Verification("out", ()), PublishRequest("out", "me/tiny", license="mit")).text
    assert "No codes were chosen for this file: `qt.convert` took over those of absmax (" in text
    assert "qt.quantize(" not in text
    assert "llama-cli -hf me/tiny:Q4\\_0" in text.replace("Q4_0", "Q4\\_0")


def test_the_folder_is_loaded_and_holds_what_its_receipt_says(of_our_own: Path) -> None:
    checks = check_files(open_artifact(of_our_own / "out"))
    assert not [check for check in checks if check.passed is False]
    loaded = qt.load(of_our_own / "out", device="cpu")
    assert loaded.config == qt.GGUF("Q4_0")  # type: ignore[union-attr]
    source = qt.load(of_our_own / "made", device="cpu").model
    tokens = torch.arange(2, 34).reshape(2, 16)
    difference = plain_logits(loaded.model, tokens).float() - plain_logits(source, tokens).float()
    assert difference.abs().max() < 0.02


def test_what_is_not_as_before_is_told(tmp_path: Path) -> None:
    record = qt.convert(packed(tmp_path, bits_of={"down_proj": 8}), "gguf", tmp_path / "out")
    assert (
        "12 layers of 4 bits as Q4_0, in blocks of 32 with a scale each: 4.5 bits per weight, 4.53 before"
        in record.notes
    )
    assert (
        "2 layers of 8 bits as Q8_0, in blocks of 32 with a scale each: 8.5 bits per weight, 8.52 before"
        in record.notes
    )
    assert "2 matrices that are not quantized are stored as BF16" in record.notes
    assert record.method == "gptq" and record.format == "gguf" and "llama.cpp" in record.readers


def test_the_codes_of_one_layer_at_a_time_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = gptq(tmp_path, architecture="mixtral")
    read = LayerCodes.codes
    held: list[weakref.ref[Any]] = []

    def codes(self: LayerCodes) -> Any:
        assert all(earlier() is None for earlier in held)
        found = read(self)
        held.append(weakref.ref(found))
        return found

    monkeypatch.setattr(LayerCodes, "codes", codes)
    qt.convert(source, "gguf", tmp_path / "out")
    assert len(held) == 2 * (4 + 3 * 4)


def test_a_stopped_job_leaves_nothing(tmp_path: Path) -> None:
    source = gptq(tmp_path)
    seen: list[ProgressEvent] = []

    def stop(event: ProgressEvent) -> None:
        seen.append(event)
        if len(seen) == 5:
            raise qt.JobCancelled

    with pytest.raises(qt.JobCancelled):
        qt.convert(source, "gguf", tmp_path / "out", on_progress=stop)
    assert {event.phase for event in seen} == {"save"} and seen[0].done < seen[-1].done < seen[0].total
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]
