"""Whatever stands in the first bytes of a `.gguf` file, or in tensors of a quantized model, a verb ends in one line."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

import qtoolkit as qt
from qtoolkit.checkpoints.gguf_header import read_gguf
from tests.fuzz.conftest import changing
from tests.fuzz.mutations import as_json, damaged, ends_well, examples, mutated
from tests.models.gguf_models import write_gguf
from tests.sample_models import random_model

changed = contextmanager(changing)
HEADER = 1200
TENSORS = st.sampled_from(
    [
        *(torch.zeros(0), torch.zeros(1), torch.zeros(3, 5), torch.zeros(1, dtype=torch.uint8), torch.tensor(7)),
        *(torch.full((64,), 255, dtype=torch.uint8), torch.full((8, 8), float("nan")), torch.zeros(2, 2, 2).half()),
    ]
)


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("fuzz") / "model.gguf"
    write_gguf(file)
    return file


@pytest.fixture(scope="module")
def nf4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    random_model("llama", num_hidden_layers=1).save_pretrained(folder / "model")
    qt.quantize(folder / "model", "nf4", output=folder / "nf4")
    return folder / "nf4"


@pytest.mark.slow
@examples(400)
@given(data=st.data())
def test_a_gguf_header_is_walked_through(gguf_file: Path, data: st.DataObject) -> None:
    content = gguf_file.read_bytes()
    with changed(gguf_file.parent) as files:
        files.write(gguf_file.name, data.draw(damaged(content, HEADER)))
        ends_well(lambda: read_gguf(gguf_file))


@examples(30)
@given(data=st.data())
def test_a_gguf_file_is_planned(gguf_file: Path, data: st.DataObject) -> None:
    content = gguf_file.read_bytes()
    with changed(gguf_file.parent) as files:
        files.write(gguf_file.name, data.draw(damaged(content, HEADER)))
        ends_well(lambda: qt.plan(gguf_file, "absmax", machine="t4"))


@examples(20)
@given(data=st.data())
def test_bitsandbytes_tensors(nf4: Path, data: st.DataObject) -> None:
    tensors: dict[str, Any] = load_file(nf4 / "model.safetensors")
    states = sorted(name for name in tensors if "quant_state" in name)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        if data.draw(st.booleans()):
            tensors[name] = data.draw(TENSORS).clone()
        else:
            del tensors[name]
    if data.draw(st.booleans()) and states[0] in tensors:
        state = json.loads(bytes(load_file(nf4 / "model.safetensors")[states[0]].tolist()))
        lying = as_json(data.draw(mutated(state)))[:100_000]
        tensors[states[0]] = torch.tensor(list(lying), dtype=torch.uint8)
    with changed(nf4) as files:
        files.write("model.safetensors", save(tensors))
        ends_well(lambda: qt.load(nf4))
