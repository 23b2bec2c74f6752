"""`.gguf` files of a repository on the Hub: which one is meant, its header by ranges, and the file itself."""

from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, HubUnreachableError, ModelNotFoundError, UnsupportedModelError
from qtoolkit.hub import gguf_files
from qtoolkit.hub.gguf_choice import choose_gguf, gguf_models, listed, parse_gguf_name, type_in_name
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.opening import open_checkpoint
from tests.fake_hub.server import Fault, Hub
from tests.models.gguf_models import split, write_gguf, write_types

LIST = r"org/name:Q4_K_M \(\d+\.\d kB\), org/name:Q8_0 \(\d+\.\d kB\)$"


def open_model(name: str, *, headers_only: bool = False) -> Checkpoint:
    return open_checkpoint(
        name, revision=None, token=None, tokenizer=None, on_progress=lambda _: None, headers_only=headers_only
    )


def whole(hub: Hub) -> list[str]:
    """The files that were asked for as a whole."""
    asked = [request for request in hub.requests if "/resolve/" in request.path and request.method == "GET"]
    return [
        request.path.partition("/main/")[2] or request.path.split("/", 5)[5] for request in asked if not request.range
    ]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """Two models of two seeds, and what is no model."""
    for seed, name in enumerate(("Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf")):
        write_gguf(tmp_path / name, seed)
    content = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    return content | {"mmproj-F16.gguf": b"w", "imatrix.gguf": b"w", "README.md": b"---\nlicense: mit\n---\n"}


@pytest.mark.parametrize(
    "name", ["org/name:Q8_0", "org/name:q8_0", "org/name/Tiny-Q8_0.gguf", "org/name:Q8_0@main", " org/name:Q8_0 "]
)
def test_the_file_that_is_named_is_downloaded_alone(
    name: str, hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = hub.add("org/name", files).refs["main"]
    checkpoint = open_model(name)
    assert hub.downloads() == ["Tiny-Q8_0.gguf"]
    assert checkpoint.path is not None
    assert checkpoint.path.read_bytes() == files["Tiny-Q8_0.gguf"]
    assert (checkpoint.name, checkpoint.format, checkpoint.license) == ("org/name", "gguf", "mit")
    assert checkpoint.commit_hash == commit
    assert checkpoint.checked.startswith("checked:")
    assert "the file Tiny-Q8_0.gguf of the repository is read" in checkpoint.notes
    (tmp_path / "there.gguf").write_bytes(files["Tiny-Q8_0.gguf"])
    there = open_model(str(tmp_path / "there.gguf"))
    assert all(torch.equal(tensor[...], there.tensors[key][...]) for key, tensor in checkpoint.tensors.items())
    assert checkpoint.tokenizer is not None


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("org/name", UnsupportedModelError, "org/name holds 2 .gguf models: name one of "),
        ("org/name:Q5_K_M", ModelNotFoundError, "org/name holds no file 'Q5_K_M': name one of "),
        ("org/name/gone.gguf", ModelNotFoundError, "org/name holds no file 'gone.gguf': name one of "),
        ("org/name/mmproj-F16.gguf", ModelNotFoundError, "org/name holds no file 'mmproj-F16.gguf': name one of "),
    ],
)
def test_several_files_are_listed_with_their_sizes(
    name: str, error: type[Exception], told: str, hub: Hub, files: dict[str, bytes]
) -> None:
    hub.add("org/name", files)
    for headers_only in (False, True):
        with pytest.raises(error, match=told.replace(".", r"\.") + LIST) as caught:
            open_model(name, headers_only=headers_only)
        assert len(str(caught.value).splitlines()) == 1
    assert hub.downloads() == []


def test_a_plan_reads_the_header_alone_by_ranges(
    hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on behind the first part, and never reaches the weights."""
    monkeypatch.setattr(gguf_files, "_FIRST_BYTES", 1000)
    hub.add("org/name", files)
    plan = qt.plan("org/name:Q4_K_M", "absmax", machine="t4")
    ranges = [request.range for request in hub.requests if request.range]
    assert ranges == ["bytes=0-999", "bytes=1000-3999", "bytes=4000-15999"]
    assert sum(request.sent for request in hub.requests) < len(files["Tiny-Q4_K_M.gguf"]) / 4
    assert plan.source.disk_size == len(files["Tiny-Q4_K_M.gguf"])
    (download,) = (phase for phase in plan.phases if phase.name == "download")
    assert download.bytes_moved == len(files["Tiny-Q4_K_M.gguf"])
    assert any("stored as F16" in note for note in plan.notes)


def test_what_is_planned_is_quantized(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add("org/name", files)
    plan = qt.plan("org/name:Q8_0", "absmax", device="cpu")
    result = qt.quantize("org/name:Q8_0", "absmax", output=tmp_path / "out", device="cpu")
    assert result.memory.footprint_after == plan.footprint_after
    assert result.report.source.commit_hash == hub.repositories["org/name"].refs["main"]


def test_a_lying_header_is_refused_before_it_is_downloaded(hub: Hub, files: dict[str, bytes]) -> None:
    content = files["Tiny-Q8_0.gguf"]
    hub.add("org/name", {"a-Q8_0.gguf": content[:-1], "b-Q4_0.gguf": b"<html>" * 100, "c-Q5_0.gguf": content[:2000]})
    for name, told in {"Q8_0": "ends at byte", "Q4_0": "it begins with b'<htm'", "Q5_0": "does not end within"}.items():
        with pytest.raises(CheckpointError, match=rf"cannot read org/name/.*{told}"):
            open_model(f"org/name:{name}", headers_only=True)
    assert whole(hub) == []


def test_without_the_hub_the_cached_file_is_read(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("org/name", files)
    open_model("org/name:Q8_0")
    hub.faults = [Fault("/api/models", status=503)]
    for headers_only in (False, True):
        checkpoint = open_model("org/name:Q8_0", headers_only=headers_only)
        assert any("was taken from the local cache" in note for note in checkpoint.notes)
    with pytest.raises(HubUnreachableError, match="org/name:Q4_K_M is not whole in the local cache"):
        open_model("org/name:Q4_K_M")


def test_all_parts_of_a_model_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    write_types(tmp_path / "m-Q8_0.gguf", ["Q8_0"])
    split(tmp_path / "m-Q8_0.gguf", tmp_path / "parts", 2)
    parts = {f"Q8_0/{file.name}": file.read_bytes() for file in (tmp_path / "parts").iterdir()}
    hub.add("org/name", parts)
    plan = open_model("org/name:Q8_0", headers_only=True)
    assert whole(hub) == []
    assert open_model("org/name/Q8_0/m-Q8_0-00002-of-00002.gguf").tensors.keys() == plan.tensors.keys()
    assert sorted(whole(hub)) == sorted(parts)
    assert plan.download_bytes == sum(map(len, parts.values()))
    hub.add("org/less", {name: content for name, content in parts.items() if "00001" in name})
    with pytest.raises(CheckpointError, match=r"m-Q8_0-00002-of-00002\.gguf is missing"):
        open_model("org/less:Q8_0", headers_only=True)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("org/name:Q4_K_M", ("org/name", "Q4_K_M")),
        ("org/name:Q4_K_M@v1", ("org/name@v1", "Q4_K_M")),
        ("org/name/a/b.GGUF", ("org/name", "a/b.GGUF")),
        ("org/name", None),
        ("org/name@v1", None),
        ("org/name:", None),
        ("name:Q4_0", None),
        ("org/name/file.bin", None),
    ],
)
def test_names(name: str, parsed: Any) -> None:
    found = parse_gguf_name(name)
    assert (found and (found.repo, found.choice)) == parsed


@pytest.mark.once
@pytest.mark.parametrize(
    ("file", "type_"),
    [
        ("SmolLM2-135M-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("model.q8_0.gguf", "Q8_0"),
        ("model-UD-IQ2_XXS.gguf", "UD-IQ2_XXS"),
        ("F16/model-f16-00001-of-00003.gguf", "F16"),
        ("BF16.gguf", "BF16"),
        ("Qwen2.gguf", ""),
    ],
)
def test_types_in_names(file: str, type_: str) -> None:
    assert type_in_name(file) == type_


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "is_model"),
    [
        ("Flora-7B.Q4_K_M.gguf", True),
        ("Exploration-7B-Q8_0.gguf", True),
        ("qwen2-imatrix-Q4_K_M.gguf", True),
        ("x-lora.IQ4_XS.gguf", True),
        ("mmproj-Q8_0.gguf", False),
        ("model.mmproj-F16.gguf", False),
        ("imatrix.gguf", False),
        ("model.imatrix.gguf", False),
        ("my-lora-F16.gguf", False),
        ("LoRA.gguf", False),
    ],
)
def test_files_beside_models_are_known_by_whole_words(name: str, is_model: bool) -> None:
    assert bool(gguf_models({name: 10})) is is_model


@pytest.mark.once
def test_files_of_one_type_are_named_whole() -> None:
    sizes = {"a-Q4_0.gguf": 1000, "b-Q4_0.gguf": 2000, "../c-Q8_0.gguf": 1, "d.gguf": 3, "x.bin": 5}
    assert (
        listed("o/n", gguf_models(sizes)) == "o/n/a-Q4_0.gguf (1.0 kB), o/n/b-Q4_0.gguf (2.0 kB), o/n/d.gguf (3 bytes)"
    )
    with pytest.raises(ModelNotFoundError, match="o/n holds 2 files of the type 'Q4_0': name one of o/n/a-Q4_0"):
        choose_gguf("o/n", sizes, "Q4_0")
    assert choose_gguf("o/n", sizes, "d.gguf") == ("d.gguf",)
    with pytest.raises(UnsupportedModelError, match=r"holds no \.gguf model: name it without 'Q4_0'"):
        choose_gguf("o/n", {"model.safetensors": 1}, "Q4_0")


def test_a_search_for_the_whole_name_lists_its_files(hub: Hub, files: dict[str, bytes]) -> None:
    """As they are opened, with their sizes."""
    hub.add("org/name", files)
    (part,) = qt.find_models("org/nam").models
    assert (part.name, part.holds_files) == ("org/name", True)
    found = qt.find_models("org/name").models
    expected = [(f"org/name:{kind}", len(files[f"Tiny-{kind}.gguf"])) for kind in ("Q4_K_M", "Q8_0")]
    assert [(model.name, model.size) for model in found] == expected
    assert not any(model.holds_files for model in found)
    for model in found:
        assert open_model(model.name, headers_only=True).disk_size == model.size


def test_files_that_the_hub_does_not_list_are_told(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add("org/name", files)
    hub.faults = [Fault("/api/models/org/name", status=503)]
    found = qt.find_models("org/name")
    assert [model.name for model in found.models] == ["org/name"]
    assert found.notes[0].startswith("the files of org/name are not listed, since")
