"""A model comes from one commit of its repository, with the files that are read and no others."""

import re
import threading
from pathlib import Path

import pytest
import torch

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.hub.repository import fetch
from qtoolkit.records import ProgressEvent
from tests.fake_hub.server import Fault, Hub, Repository
from tests.fake_hub.xet import XetHub
from tests.hub.hub_models import SHARDS, accept, content, ignore_progress, sharded, single

# Beside a model on the Hub, and never asked for.
OTHERS = [
    "README.md",
    "license_check.py",
    "modeling_custom.py",
    "tokenization_custom.py",
    "pytorch_model.bin",
    "model.pth",
    "training_args.bin",
    "flax_model.msgpack",
    "consolidated.safetensors",
    "adapter_model.safetensors",
    "original/consolidated.00.pth",
    "original/tokenizer.model",
    "original/model.safetensors",
    "onnx/model.onnx",
    "model.Q4_K_M.gguf",
]
SMALL = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"]
SMALL += ["vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"]
SMALL += ["LICENSE", "NOTICE.txt", "USE_POLICY.md", "preprocessor_config.json"]


def test_the_files_arrive_as_they_are(any_hub: Hub, tmp_path: Path) -> None:
    repository = any_hub.add("org/model", sharded())
    snapshot = fetch("org/model", on_progress=ignore_progress, check=accept)
    assert (snapshot.repo_id, snapshot.commit_hash, snapshot.note) == ("org/model", repository.refs["main"], "")
    assert snapshot.folder.is_relative_to(tmp_path / "hub")
    assert {file.name: file.read_bytes() for file in snapshot.folder.iterdir()} == sharded()
    assert isinstance(any_hub, XetHub) == any("/xorbs/" in request.path for request in any_hub.requests)


def test_transformers_loads_what_was_fetched(hub: Hub, tiny_llama: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hub.add("org/tiny", tiny_llama)
    folder = fetch("org/tiny", on_progress=ignore_progress, check=accept).folder
    expected = AutoModelForCausalLM.from_pretrained(tiny_llama).state_dict()
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    tokens, expected_tokens = (AutoTokenizer.from_pretrained(place).encode("Hello") for place in (folder, tiny_llama))
    assert tokens == expected_tokens


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        pytest.param(single(), ["model.safetensors"], id="one file"),
        pytest.param(single() | {"model.fp16.safetensors": b"w"}, ["model.safetensors"], id="one file and a variant"),
        pytest.param(sharded() | {"model-extra.safetensors": b"w"}, list(SHARDS), id="shards of an index"),
        pytest.param({"config.json": b"{}", "a.safetensors": b"w"}, ["a.safetensors"], id="another name, no index"),
    ],
)
def test_only_chosen_files_are_asked_for(hub: Hub, model: dict[str, bytes], weights: list[str]) -> None:
    small = {name: name.encode() for name in SMALL if name not in model}
    hub.add("org/model", model | small | dict.fromkeys(OTHERS, b"other"))
    fetch("org/model", on_progress=ignore_progress, check=accept)
    index = ["model.safetensors.index.json"] if "model.safetensors.index.json" in model else []
    assert sorted(hub.downloads()) == sorted([*SMALL, *index, *weights])
    assert set(hub.downloads("HEAD")) == set(hub.downloads())


def test_every_file_is_of_the_commit_that_was_resolved(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hub.add("org/model", single()).refs["main"]

    def move_on(repository: Repository) -> None:
        repository.commit({name: content(500, seed=9) for name in single()})

    monkeypatch.setattr(hub, "after_info", move_on)
    snapshot = fetch("org/model", on_progress=ignore_progress, check=accept)
    assert hub.repositories["org/model"].refs["main"] != first
    assert snapshot.commit_hash == first
    assert {file.name: file.read_bytes() for file in snapshot.folder.iterdir()} == single()


@pytest.mark.parametrize("written", ["in the name", "as revision", "as commit"])
def test_a_revision_is_followed(hub: Hub, written: str) -> None:
    repository = hub.add("org/model", single())
    commit_hash = repository.commit({"config.json": b'{"on": "branch"}'}, branch="dev/8bit")
    revision = commit_hash if written == "as commit" else "dev/8bit"
    repository.commit({"config.json": b'{"on": "main"}'})
    name, given = (f"org/model@{revision}", None) if written == "in the name" else ("org/model", revision)
    snapshot = fetch(name, revision=given, on_progress=ignore_progress, check=accept)
    assert snapshot.commit_hash == commit_hash
    assert (snapshot.folder / "config.json").read_bytes() == b'{"on": "branch"}'


def test_a_refused_config_ends_it_before_the_weights(hub: Hub) -> None:
    hub.add("org/model", sharded())

    def refuse(folder: Path) -> None:
        assert (folder / "config.json").read_bytes() == sharded()["config.json"]
        raise UnsupportedModelError("no head that writes text")

    with pytest.raises(UnsupportedModelError, match="no head that writes text"):
        fetch("org/model", on_progress=ignore_progress, check=refuse)
    assert not set(SHARDS) & set(hub.downloads())


def test_what_is_in_the_cache_is_not_sent_again(hub: Hub) -> None:
    repository = hub.add("org/model", sharded())
    first = fetch("org/model", on_progress=ignore_progress, check=accept)
    hub.requests.clear()
    assert fetch("org/model", on_progress=ignore_progress, check=accept) == first
    assert [request.path for request in hub.requests] == ["/api/models/org/model"]

    config = b'{"model_type": "llama", "new": 1}'
    repository.commit({"config.json": config})
    events: list[ProgressEvent] = []
    second = fetch("org/model", on_progress=events.append, check=accept)
    assert hub.downloads() == ["config.json"]
    assert {event.total for event in events} == {len(config)}
    assert {file.name: file.read_bytes() for file in second.folder.iterdir()} == sharded() | {"config.json": config}


def test_progress_counts_every_byte_in_the_callers_thread(any_hub: Hub) -> None:
    any_hub.add("org/model", sharded(2_000_000))
    any_hub.faults = [Fault(r"/xorbs/|\.safetensors$", pause=0.02)]
    events: list[ProgressEvent] = []
    threads = set()

    def watch(event: ProgressEvent) -> None:
        events.append(event)
        threads.add(threading.current_thread())

    fetch("org/model", on_progress=watch, check=accept)
    total = sum(map(len, sharded(2_000_000).values()))
    done = [event.done for event in events]
    assert threads == {threading.current_thread()}
    assert {(event.phase, event.total, event.unit) for event in events} == {("download", total, "bytes")}
    assert done == sorted(done)
    assert done[-1] == total
    assert set(sharded()) == {event.detail for event in events}
    under_way = [event for event in events if event.detail == SHARDS[1] and total - 2_000_000 < event.done < total]
    assert under_way, "no report inside a file"


def test_nothing_is_printed(any_hub: Hub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # Makes huggingface_hub draw its bars where there is no terminal.
    monkeypatch.setenv("TQDM_POSITION", "-1")
    any_hub.add("org/model", single())
    fetch("org/model", on_progress=ignore_progress, check=accept)
    assert capfd.readouterr() == ("", "")


def test_a_broken_connection_goes_on_where_it_broke(hub: Hub) -> None:
    piece = 64 * 1024
    hub.add("org/model", single(10 * piece))
    weights = r"/model\.safetensors$"
    # The first request is HEAD, which has no body to cut.
    hub.faults = [Fault(weights, times=1), Fault(weights, cut=6 * piece, times=1)]
    snapshot = fetch("org/model", on_progress=ignore_progress, check=accept)
    sent = [request for request in hub.requests if request.method == "GET" and re.search(weights, request.path)]
    pieces = [(request.range, request.sent // piece) for request in sent]
    assert pieces == [(None, 6), (f"bytes={6 * piece}-", 4)]
    assert (snapshot.folder / "model.safetensors").read_bytes() == single(10 * piece)["model.safetensors"]
