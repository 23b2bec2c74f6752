"""A bare `.gguf` file of each architecture that is written: it loads, weight by weight, as the `gguf` package reads it.

Where a weight belongs is told once more here, by slow loops and by the package's own table of names.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import qtoolkit as qt
from qtoolkit.checkpoints.gguf_options import SCALES
from qtoolkit.checkpoints.gguf_writing import write_gguf
from qtoolkit.formats.gguf.file_plan import plan_file
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.opening import open_checkpoint
from tests.formats.gguf.small_models import SMALL, small_model
from tests.formats.gguf.test_vocabulary import SPLITS, byte_level
from tests.models.gguf_models import split

TOKENS = torch.arange(24)[None] * 5 % 96  # [1, 24]
# Those whose rope turns neighbours in llama.cpp, and halves of a head in transformers.
TURNED = ("llama", "mistral", "mixtral", "smollm3", "granite")
ARRANGED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def write_model(file: Path, model: PreTrainedModel, quant_type: str, tokenizer: Any = None) -> None:
    """Write a model as a file, by the plan of our own writer."""
    weights = {name: weight for name, weight in model.state_dict().items() if name not in model.all_tied_weights_keys}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    plan = plan_file(model.config, shapes, tokenizer, quant_type, {"general.name": "small"})
    planned = {tensor.entry.name: tensor for tensor in plan.tensors}
    list(write_gguf(file, plan.values, plan.entries, lambda entry: planned[entry.name].made(weights.__getitem__)))


def open_model(file: Path) -> Checkpoint:
    return open_checkpoint(file, revision=None, token=None, tokenizer=None, on_progress=lambda _: None)


def logits_of(config: Any, kind: type[PreTrainedModel], weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits in float32 of a model that is built anew: a cast would round the frequencies of its rope too."""
    model = kind._from_config(config, dtype=torch.float32).eval()
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    with torch.no_grad():
        logits: torch.Tensor = model(TOKENS).logits
    return logits


@pytest.mark.parametrize("title", SMALL)
def test_a_file_in_f16_is_the_model_that_it_was_written_of(title: str, tmp_path: Path) -> None:
    """Each weight is the same in bfloat16, and the config, which the header alone tells, computes the same."""
    model = small_model(title)
    write_model(tmp_path / "a.gguf", model, "F16")
    loaded = qt.load(tmp_path / "a.gguf", device="cpu")
    source = {name: weight.bfloat16() for name, weight in model.state_dict().items()}
    found = loaded.state_dict()
    assert found.keys() == source.keys()
    for name, weight in source.items():
        assert torch.equal(found[name], weight), name
    for option in SCALES:
        assert getattr(loaded.config, option, None) == getattr(model.config, option, None), option
    expected = logits_of(model.config, type(model), source)
    # 1e-6 is what float32 has of logits of a few units; float16 would move them by 1e-3.
    assert torch.allclose(logits_of(loaded.config, type(loaded), found), expected, atol=2e-6)
    assert expected.std() > 0.1


@pytest.mark.parametrize("title", SMALL)
def test_each_weight_is_the_one_that_the_gguf_package_dequantizes(title: str, tmp_path: Path) -> None:
    model = small_model(title)
    write_model(tmp_path / "a.gguf", model, "Q8_0")
    checkpoint = open_model(tmp_path / "a.gguf")
    assert checkpoint.expand is None
    assert checkpoint.skeleton_notes == ()
    assert not any("left out" in note for note in checkpoint.notes)
    found = qt.load(tmp_path / "a.gguf", device="cpu").state_dict()
    placed = dict(expected_weights(tmp_path / "a.gguf", model))
    assert placed.keys() == found.keys() - model.all_tied_weights_keys.keys()
    for name, weight in placed.items():
        assert torch.equal(found[name], torch.from_numpy(weight.astype(np.float32)).bfloat16()), name


def expected_weights(file: Path, model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """Each weight of a model by its name there, as the `gguf` package reads it and slow loops place it."""
    reader = gguf.GGUFReader(file)
    stored = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    config = model.config
    kind = reader.fields["general.architecture"].contents()
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for name in model.state_dict():
        if name in model.all_tied_weights_keys:
            continue
        if ".experts." in name:
            block = f"blk.{name.split('.')[2]}.ffn"
            parts = ("gate", "up") if "gate_up" in name else ("down",)
            yield name, np.concatenate([stored[f"{block}_{part}_exps.weight"] for part in parts], axis=1)
            continue
        values = stored[names.get_name(name, try_suffixes=(".weight", ".bias"))]
        if config.model_type in TURNED and "q_proj" in name:
            values = in_halves(values, config.num_attention_heads)
        if config.model_type in TURNED and "k_proj" in name:
            values = in_halves(values, config.num_key_value_heads)
        if config.model_type.startswith("gemma") and "norm" in name:
            values = values - 1
        yield name, values.T if config.model_type == "gpt2" and name.endswith(ARRANGED) else values


def in_halves(values: Any, heads: int) -> Any:
    """Rows of pairs, (0, n), (1, n + 1), ..., as halves of each head."""
    size = len(values) // heads
    placed = np.empty_like(values)
    for head in range(heads):
        for pair in range(size // 2):
            placed[head * size + pair] = values[head * size + 2 * pair]
            placed[head * size + size // 2 + pair] = values[head * size + 2 * pair + 1]
    return placed


def test_experts_are_read_one_at_a_time_from_all_parts(tmp_path: Path) -> None:
    """Under the names that they have in a folder; each takes its own bytes of the stack."""
    model = small_model("mixtral")
    write_model(tmp_path / "a.gguf", model, "Q8_0")
    model.save_pretrained(tmp_path / "folder")
    split(tmp_path / "a.gguf", tmp_path / "parts", 3)
    checkpoint = open_model(tmp_path / "parts" / "a-00001-of-00003.gguf")
    folder = open_model(tmp_path / "folder")
    assert checkpoint.tensors.keys() == folder.tensors.keys()
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in folder.tensors.items()
    }
    stack = next(tensor for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors if "ffn_up_exps" in tensor.name)
    expert = checkpoint.tensors["model.layers.0.block_sparse_moe.experts.3.w3.weight"]
    assert expert.codes.nbytes == stack.n_bytes // 8
    assert np.array_equal(expert.codes[...].numpy(), stack.data[3])


def test_experts_that_are_tensors_of_their_own_are_read(tmp_path: Path) -> None:
    """As files of Mixtral from before llama.cpp's stacks have them; its loader names them `blk.%d.ffn_gate.%d`."""
    model = small_model("mixtral")
    write_model(tmp_path / "new.gguf", model, "Q8_0")
    reader = gguf.GGUFReader(tmp_path / "new.gguf")
    writer = gguf.GGUFWriter(tmp_path / "old.gguf", "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0])
    for tensor in reader.tensors:
        name, kind = tensor.name, tensor.tensor_type
        stacked = "_exps." in name
        for expert, rows in enumerate(tensor.data if stacked else [tensor.data]):
            writer.add_tensor(name.replace("_exps.", f".{expert}.") if stacked else name, rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    old, new = (qt.load(tmp_path / f"{name}.gguf", device="cpu").state_dict() for name in ("old", "new"))
    assert old.keys() == new.keys()
    assert all(torch.equal(weight, new[name]) for name, weight in old.items())
    assert not any("left out" in note for note in open_model(tmp_path / "old.gguf").notes)


@pytest.mark.slow
def test_the_tokenizer_of_a_model_that_transformers_does_not_know_is_read(tmp_path: Path) -> None:
    """Of the file itself, by transformers' newest versions."""
    tokenizer = byte_level(SPLITS["gpt-2"])
    write_model(tmp_path / "a.gguf", small_model("olmo2", vocab_size=400), "Q8_0", tokenizer)
    text = "Größere Bücher, 12,50 x"
    assert open_model(tmp_path / "a.gguf").tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
