"""Without the Hub, what is whole in the local cache is used, and said to be."""

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from qtoolkit.errors import HubUnreachableError, JobCancelled, UnsupportedModelError
from qtoolkit.hub.cache import local_models
from qtoolkit.hub.repository import fetch
from qtoolkit.records import ProgressEvent
from tests.fake_hub.server import Fault, Hub
from tests.hub.hub_models import SHARDS, accept, content, ignore_progress, sharded, single

Outage = Callable[[Hub, pytest.MonkeyPatch], None]


def _unplugged(hub: Hub, _monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub.close_session()
    hub.server_close()


def _offline(_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def _overloaded(hub: Hub, _monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults = [Fault("/api/models", status=503)]


OUTAGES = pytest.mark.parametrize(
    ("break_down", "reason"),
    [
        pytest.param(_unplugged, r"does not answer \(", id="no network"),
        pytest.param(_offline, "HF_HUB_OFFLINE is set: unset it", id="HF_HUB_OFFLINE"),
        pytest.param(_overloaded, r"is down or overloaded \(503\)", id="Hub is down"),
    ],
)


def test_of_two_sets_of_weights_the_one_that_a_gptq_config_names_is_whole(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"bits": 4, "group_size": 128, "model_file_base_name": "gptq-128g"}
    named = {"gptq-128g.safetensors": content(5000, seed=7), "quantize_config.json": json.dumps(how).encode()}
    hub.add("org/model", sharded() | named)
    before = fetch("org/model", on_progress=ignore_progress, check=accept)
    assert not any((before.folder / shard).exists() for shard in SHARDS)
    assert local_models() == ("org/model",)
    _offline(hub, monkeypatch)
    after = fetch("org/model", on_progress=ignore_progress, check=accept)
    assert after.folder == before.folder
    (before.folder / "gptq-128g.safetensors").unlink()
    with pytest.raises(HubUnreachableError, match="org/model is not whole in the local cache"):
        fetch("org/model", on_progress=ignore_progress, check=accept)


@OUTAGES
@pytest.mark.parametrize("revision", [None, "main", "dev/8bit", "commit"])
def test_a_whole_model_is_used(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, break_down: Outage, reason: str, revision: str | None
) -> None:
    repository = hub.add("org/model", sharded())
    repository.commit({"config.json": b"{}"}, branch="dev/8bit")
    asked = repository.refs["main"] if revision == "commit" else revision
    before = fetch("org/model", revision=asked, on_progress=ignore_progress, check=accept)
    break_down(hub, monkeypatch)

    checked: list[Path] = []
    after = fetch("org/model", revision=asked, on_progress=ignore_progress, check=checked.append)
    assert (after.folder, after.repo_id, after.commit_hash) == (before.folder, before.repo_id, before.commit_hash)
    assert checked == [after.folder]
    with pytest.raises(ValueError, match=f"{after.commit_hash[:12]} of org/model.* the local cache, since .*{reason}"):
        raise ValueError(after.note)


@OUTAGES
def test_a_model_that_was_never_there_is_told(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, break_down: Outage, reason: str
) -> None:
    break_down(hub, monkeypatch)
    told = f"org/model is not whole in the local cache .*, and .*{reason}"
    with pytest.raises(HubUnreachableError, match=told) as caught:
        fetch("org/model", on_progress=ignore_progress, check=accept)
    assert "\n" not in str(caught.value)


def test_another_revision_than_the_cached_one_is_not_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/model", single())
    fetch("org/model", on_progress=ignore_progress, check=accept)
    _offline(hub, monkeypatch)
    with pytest.raises(HubUnreachableError, match="org/model@v2 is not whole"):
        fetch("org/model@v2", on_progress=ignore_progress, check=accept)


def test_half_a_model_is_not_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_hash = hub.add("org/model", sharded()).refs["main"]

    def stop_after_the_first(event: ProgressEvent) -> None:
        if event.detail == SHARDS[0]:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        fetch("org/model", on_progress=stop_after_the_first, check=accept)
    _offline(hub, monkeypatch)
    with pytest.raises(HubUnreachableError, match="is not whole"):
        fetch("org/model", revision=commit_hash, on_progress=ignore_progress, check=accept)


def test_an_interrupted_update_leaves_the_old_commit_usable(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = hub.add("org/model", single())
    before = fetch("org/model", on_progress=ignore_progress, check=accept)
    repository.commit({"model.safetensors": content(1_000_000, seed=9)})
    hub.faults = [Fault(r"/model\.safetensors$", pause=0.05)]

    def stop_at_the_weights(event: ProgressEvent) -> None:
        if event.detail == "model.safetensors":
            raise JobCancelled

    with pytest.raises(JobCancelled):
        fetch("org/model", on_progress=stop_at_the_weights, check=accept)
    _offline(hub, monkeypatch)
    assert fetch("org/model", on_progress=ignore_progress, check=accept).commit_hash == before.commit_hash


def test_the_config_is_checked_as_ever(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/model", single())
    fetch("org/model", on_progress=ignore_progress, check=accept)
    _offline(hub, monkeypatch)

    def refuse(_folder: Path) -> None:
        raise UnsupportedModelError("already quantized")

    with pytest.raises(UnsupportedModelError, match="already quantized"):
        fetch("org/model", on_progress=ignore_progress, check=refuse)
