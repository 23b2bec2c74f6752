"""An adapter that qtoolkit wrote, added by llama.cpp to a model in a file: logits move as transformers' do."""

from pathlib import Path

import pytest
import torch

from qtoolkit.adapters.adapter_reading import Change
from qtoolkit.adapters.applied import with_adapter
from qtoolkit.formats import get_format
from qtoolkit.models.structure import is_linear, linear_shape
from tests.evaluation.llama_cpp_files import expand, write_file
from tests.sample_models import random_model

library = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: run `make test-llama-cpp`")

IDS = list(range(5, 37))
RANKS = {"q_proj": 4, "down_proj": 6}


def logits(file: Path, adapter: Path | None) -> torch.Tensor:
    """Of each token, float32 [tokens, vocabulary]."""
    model = library.Llama(
        str(file), lora_path=str(adapter) if adapter else None, logits_all=True, n_ctx=64, n_threads=1, verbose=False
    )
    model.eval(IDS)
    return torch.from_numpy(model.scores[: len(IDS)].copy())


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_logits_move_as_in_transformers(kind: str, tmp_path: Path) -> None:
    model = random_model(kind)
    file, adapter = tmp_path / "model.gguf", tmp_path / "adapter.gguf"
    expanded = expand(file, model, write_file(file, model, "F16"))
    torch.manual_seed(0)
    blocks = ("model.layers.0.", "model.layers.1.")
    layers = {name: one for name, one in expanded.named_modules() if name.startswith(blocks) and is_linear(one)}
    changes = {}
    for name, layer in layers.items():
        out, inputs = linear_shape(layer)
        rank = RANKS.get(name.rpartition(".")[2], 8)
        changes[name] = Change(torch.randn(rank, inputs) / 8, torch.randn(out, rank) / 8, 0.25)
    get_format("gguf").write_adapter(adapter, changes, config=model.config, name="mine")
    tensors = {f"{name}.lora_A.weight": one.a for name, one in changes.items()}
    tensors |= {f"{name}.lora_B.weight": one.scaling * one.b for name, one in changes.items()}
    with torch.no_grad():
        plain = expanded(input_ids=torch.tensor([IDS])).logits[0]
        with with_adapter(expanded, tensors):
            expected = expanded(input_ids=torch.tensor([IDS])).logits[0]
    moved = float((expected - plain).norm())
    assert (logits(file, None) - plain).norm() < 0.05 * moved
    assert (logits(file, adapter) - expected).norm() < 0.05 * moved
