"""A plan is made from headers: of a model on the Hub, and of a checkpoint that no disk here could hold."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, HubUnreachableError, ModelNotFoundError, UnsafeCheckpointError
from tests.fake_hub.server import Hub
from tests.sample_models import config_of


@pytest.fixture
def files(tiny_llama: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in tiny_llama.iterdir()}


def test_a_hub_model_is_planned_like_its_folder(hub: Hub, tiny_llama: Path) -> None:
    commit_hash = hub.add("org/tiny", tiny_llama).refs["main"]
    there, here = qt.plan("org/tiny", "nf4", device="cpu"), qt.plan(tiny_llama, "nf4", device="cpu")
    assert (there.layers, there.skipped) == (here.layers, here.skipped)
    assert (there.footprint_after, there.disk_after) == (here.footprint_after, here.disk_after)
    assert there.source.commit_hash == commit_hash
    assert there.source.disk_size == here.source.disk_size
    names = [phase.name for phase in there.phases]
    assert names == ["download", *(phase.name for phase in here.phases)]


def test_no_weight_is_downloaded(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("org/tiny", files)
    plan = qt.plan("org/tiny", "nf4", device="cpu")
    read = {"config.json", "generation_config.json", "model.safetensors.index.json"}
    assert plan.phases[0].bytes_moved == sum(len(data) for name, data in files.items() if name not in read)
    weights = [request for request in hub.requests if request.path.endswith(".safetensors")]
    assert all(request.range == "bytes=0-99999" and request.sent <= 100_000 for request in weights)
    assert not [request for request in hub.requests if "tokenizer" in request.path]
    assert qt.local_models() == ()


def test_what_was_downloaded_is_not_downloaded_again(hub: Hub, tiny_llama: Path) -> None:
    hub.add("org/tiny", tiny_llama)
    qt.quantize("org/tiny", "absmax", device="cpu")
    plan = qt.plan("org/tiny", "nf4", device="cpu")
    assert "download" not in [phase.name for phase in plan.phases]


def test_a_header_of_many_tensors_is_read_whole(hub: Hub, files: dict[str, bytes]) -> None:
    """One that is longer than the first request."""
    single = {name: data for name, data in files.items() if not name.startswith("model")}
    model = config_of("7b")
    shapes = _shapes(model)
    single["config.json"] = model.to_json_string().encode()
    names = {f"{name}{'x' * 300}": torch.empty(0) for name in shapes}
    data = save(names)
    assert struct.unpack("<Q", data[:8])[0] > 100_000
    hub.add("org/odd", single | {"model.safetensors": data})
    with pytest.raises(CheckpointError, match="has no weights for"):
        qt.plan("org/odd", "nf4", device="cpu")
    ranges = [request.range for request in hub.requests if request.path.endswith(".safetensors")]
    assert ranges == ["bytes=0-99999", f"bytes=100000-{len(data) - 1}"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: struct.pack("<Q", 10**15) + data[8:], "its header is said to take"),
        (lambda data: data[:-5], "its tensors end at byte"),
        (lambda data: data[:8] + b"x" + data[9:], "its header is not valid"),
        (lambda data: b"abc", "its header is said to take"),
    ],
    ids=["length", "shorter than said", "no JSON", "three bytes"],
)
def test_a_header_that_lies_is_refused(damage: object, told: str, hub: Hub, files: dict[str, bytes]) -> None:
    name = max(name for name in files if name.endswith(".safetensors"))
    assert callable(damage)
    hub.add("org/tiny", files | {name: damage(files[name])})
    with pytest.raises(CheckpointError, match=told):
        qt.plan("org/tiny", "nf4", device="cpu")


def test_what_cannot_be_planned_is_told(hub: Hub, files: dict[str, bytes]) -> None:
    with pytest.raises(ModelNotFoundError, match="no model 'org/none'"):
        qt.plan("org/none", "nf4")
    kept = {name: data for name, data in files.items() if not name.endswith(".safetensors") and "index" not in name}
    hub.add("org/pickled", kept | {"pytorch_model.bin": b"x"})
    with pytest.raises(UnsafeCheckpointError, match="pickled weights only"):
        qt.plan("org/pickled", "nf4")


def test_without_a_network_the_cache_serves(hub: Hub, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/tiny", tiny_llama)
    qt.quantize("org/tiny", "absmax", device="cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    plan = qt.plan("org/tiny", "nf4", device="cpu")
    assert any("was taken from the local cache" in note for note in plan.notes)
    with pytest.raises(HubUnreachableError, match="is not whole in the local cache"):
        qt.plan("org/other", "nf4", device="cpu")


def _shapes(config: object) -> dict[str, list[int]]:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def sparse_checkpoint(folder: Path, num_shards: int) -> int:
    """Llama-2 70B in sparse files with real headers; the bytes that it would take."""
    config = config_of("70b")
    config.save_pretrained(folder)
    shapes, shards = _shapes(config), [{} for _ in range(num_shards)]
    weight_map, total = {}, 0
    for number, (name, shape) in enumerate(shapes.items()):
        shard: dict[str, list[int]] = shards[number % num_shards]
        shard[name] = shape
        weight_map[name] = f"model-{number % num_shards + 1:05}-of-{num_shards:05}.safetensors"
    for number, shard in enumerate(shards, start=1):
        header, position = {}, 0
        for name, shape in shard.items():
            size = 2 * torch.Size(shape).numel()
            header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [position, position + size]}
            position += size
        text = json.dumps(header).encode()
        with (folder / f"model-{number:05}-of-{num_shards:05}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + position)
        total += position
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return total


def _bytes_read() -> int:
    """What this process has asked the kernel to read so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def test_140_gigabytes_are_planned_from_less_than_five_megabytes(tmp_path: Path) -> None:
    total = sparse_checkpoint(tmp_path, 15)
    qt.plan(config_of("7b"), "nf4", machine="a100-80")  # modules and code are read once
    before = _bytes_read()
    plan = qt.plan(tmp_path, "nf4", machine="a100-80")
    assert _bytes_read() - before < 5_000_000
    assert plan.source.footprint == pytest.approx(total, rel=1e-6)
    assert plan.footprint_after == pytest.approx(36.4e9, rel=0.01)
    assert plan.fits
