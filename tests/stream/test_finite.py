"""NaN and infinity in any weight are found where they are, and not blamed on the text that calibrates."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.errors import CheckpointError
from tests.methods.gptq.jobs import gptq

INDEX = "model.safetensors.index.json"
NAMES = [
    "model.embed_tokens.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.1.post_attention_layernorm.weight",
    "model.layers.1.mlp.down_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
]


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama in one file."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path_factory.mktemp("finite") / "model"))
    tensors = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for file in [*folder.glob("*.safetensors"), folder / INDEX]:
        file.unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(params=NAMES)
def damaged(request: pytest.FixtureRequest, whole: Path) -> Iterator[tuple[Path, str]]:
    """A model with one bad number in a weight, and the weight's name."""
    tensors = load_file(whole / "model.safetensors")
    sound = tensors[request.param].clone()
    tensors[request.param].view(-1)[-1] = torch.nan
    save_file(tensors, whole / "model.safetensors", {"format": "pt"})
    yield whole, request.param
    save_file({**tensors, request.param: sound}, whole / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("config", [gptq(), gptq(target_bits=5.0)], ids=["calibrated", "with a target"])
def test_the_weight_is_named(damaged: tuple[Path, str], config: qt.GPTQ) -> None:
    folder, name = damaged
    seen = []
    with pytest.raises(
        CheckpointError, match=f"{name} of .* holds NaN or infinity.*: name another checkpoint"
    ) as caught:
        qt.quantize(folder, config, device="cpu", on_progress=seen.append)
    assert "text" not in str(caught.value).replace(str(folder), "")
    # What stands outside the blocks is found before any of them is worked on.
    done = [event.done for event in seen if event.phase in ("quantize", "measure")]
    assert ".layers." in name or not any(done)
