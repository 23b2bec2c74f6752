"""The copy of a model that is handed out on terms is handed out on terms."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError

import qtoolkit as qt
from qtoolkit.errors import SourceError
from qtoolkit.publishing.push import Repository
from qtoolkit.publishing.token import Writer
from qtoolkit.records import ignore_progress
from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.server import Fault
from tests.fake_hub.writable import WritableHub
from tests.publishing.test_planted_defects import json_of

pytestmark = pytest.mark.usefixtures("run_here")

REPO = "me/tiny-absmax"
STRANGER = "hf_stranger"


@pytest.fixture
def gated(made: dict[str, Path], tmp_path: Path) -> Path:
    """A saved model whose base is gated."""
    folder = shutil.copytree(made["absmax"], tmp_path / "gated")
    json_of("qtoolkit.json", gated=True)(folder)
    return folder


def test_a_public_copy_is_gated_before_a_file_is_sent(writable_hub: WritableHub, gated: Path) -> None:
    publication = qt.publish(gated, REPO, private=False, token=WRITE_TOKEN)
    assert (publication.private, publication.gated) == (False, True)
    assert "public, gated as its base" in str(publication)
    steps = [request.path.rpartition("/")[2] for request in writable_hub.requests if request.method != "GET"]
    assert steps.index("settings") < steps.index("main")
    writable_hub.tokens.add(STRANGER)
    with pytest.raises(GatedRepoError):
        hf_hub_download(REPO, "config.json", token=STRANGER)


def test_a_private_copy_is_left_private(writable_hub: WritableHub, gated: Path) -> None:
    publication = qt.publish(gated, REPO, token=WRITE_TOKEN)
    assert (publication.private, publication.gated) == (True, False)
    assert not writable_hub.repositories[REPO].gated


def test_a_gate_that_its_owner_chose_stays(writable_hub: WritableHub) -> None:
    writable_hub.add(REPO, {}).gated = True
    Repository(REPO, Writer(WRITE_TOKEN, "me"), "main", ignore_progress).gate()
    assert [request.path for request in writable_hub.requests if request.path.endswith("/settings")] == []


def test_where_the_hub_sets_no_gate_the_push_stops(writable_hub: WritableHub) -> None:
    writable_hub.add(REPO, {})
    writable_hub.faults.append(Fault("/settings", status=403))
    with pytest.raises(SourceError, match="refuses me/tiny-absmax"):
        Repository(REPO, Writer(WRITE_TOKEN, "me"), "main", ignore_progress).gate()
