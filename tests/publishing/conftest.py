"""Saved models for these tests, made once; a test that changes one takes a copy."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.publishing import read_receipt, run_cache, verifier, write_receipt
from qtoolkit.records import ignore_progress
from qtoolkit.stream.writing import write_weights
from tests.fake_hub.fixture import any_writable_hub, hub, writable_hub
from tests.methods.gptq.jobs import gptq
from tests.publishing.checks import in_this_process

__all__ = ["any_writable_hub", "hub", "writable_hub"]

CARD = "---\nlicense: apache-2.0\nbase_model: someone/tiny-llama\nbase_model_relation: quantized\n---\n# tiny-llama\n"


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let models run in this process, for tests of what happens before and after; the folders that were run so far.

    Nothing is remembered from before.
    """
    folders: list[str] = []

    def run(request: dict[str, Any], on_wait: Callable[[], None]) -> dict[str, Any]:
        folders.append(request["folder"])
        return in_this_process(request)

    monkeypatch.setattr(verifier, "run_behaviour", run)
    run_cache.clear()
    return folders


@pytest.fixture(scope="session")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with a card that names its licence, a chat template and a generation config."""
    folder = tmp_path_factory.mktemp("base") / "tiny-llama"
    shutil.copytree(tiny_llama, folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny-llama\n")
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6, "eos_token_id": [2, 0]}')
    return folder


@pytest.fixture(scope="session")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What jobs saved: by method, and in several shards."""
    folder = tmp_path_factory.mktemp("made")
    configs = {
        "nf4": qt.NF4(),
        "fp4": qt.FP4(),
        "int8": qt.Int8(),
        "absmax": qt.AbsMax(format="native"),
        "gptq": gptq(),
    }
    configs |= {"zero_point": qt.ZeroPoint(bits=4, granularity="group"), "gptq_v2": gptq(checkpoint_format="gptq_v2")}
    for name, config in configs.items():
        qt.quantize(base, config, device="cpu", output=folder / name)
    sharded = folder / "sharded"
    shutil.copytree(folder / "nf4", sharded)
    tensors, receipt = load_file(sharded / "model.safetensors"), read_receipt(sharded)
    (sharded / "model.safetensors").unlink()
    write_weights(tensors, sharded, ignore_progress, max_shard_bytes=200_000)
    assert receipt is not None
    write_receipt(sharded, receipt)
    return {path.name: path for path in folder.iterdir()}
