"""Publishing from start to end: what is not proven is not sent, and what is sent comes back the same."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, snapshot_download

import qtoolkit as qt
from qtoolkit.errors import ConfigError, ModelNotFoundError, VerificationError
from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.writable import WritableHub
from tests.publishing.test_planted_defects import TOKEN, json_of, new

REPO = "me/tiny-nf4"


@pytest.mark.slow
def test_pushed_and_pulled_back_it_is_the_same_and_passes(
    writable_hub: WritableHub, made: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {file.name: file.read_bytes() for file in made["nf4"].iterdir()}
    publication = qt.publish(made["nf4"], REPO, token=WRITE_TOKEN)
    assert (publication.private, publication.dry_run, publication.unchanged) == (True, False, ())
    assert writable_hub.repositories[REPO].private
    pulled = Path(snapshot_download(REPO, token=WRITE_TOKEN, local_dir=tmp_path / "pulled"))
    after = {file.name: file.read_bytes() for file in pulled.iterdir() if file.is_file()}
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"README.md", ".gitattributes"}
    assert ModelCard(after["README.md"].decode()).data.license == "apache-2.0"
    verification = qt.verify(pulled)
    assert verification.passed, str(verification)

    again = qt.publish(made["nf4"], REPO, token=WRITE_TOKEN)
    assert again.commit_hash == publication.commit_hash
    assert set(again.unchanged) == set(again.files)
    printed = capfd.readouterr()
    for text in (str(publication), publication._repr_html_(), json.dumps(publication.to_dict()), *printed):
        assert WRITE_TOKEN not in text
    stored = [file for file in tmp_path.rglob("*") if file.is_file() and WRITE_TOKEN.encode() in file.read_bytes()]
    assert stored == []


@pytest.mark.usefixtures("run_here")
def test_a_dry_run_asks_nobody(writable_hub: WritableHub, made: dict[str, Path]) -> None:
    publication = qt.publish(made["absmax"], "me/tiny-absmax", dry_run=True)
    assert writable_hub.requests == []
    sizes = {file.name: file.stat().st_size for file in made["absmax"].iterdir()}
    assert sizes.items() <= publication.files.items()
    assert set(publication.files) - set(sizes) == {"README.md"}
    shown = str(publication)
    assert "private, branch main" in shown and "model.safetensors" in shown and "library_name: qtoolkit" in shown


def defective(made: dict[str, Path], folder: Path) -> Path:
    copy = shutil.copytree(made["nf4"], folder / "copy")
    json_of("config.json", note=f"token={TOKEN}")(copy)
    return copy


@pytest.mark.usefixtures("run_here")
def test_what_fails_a_check_is_not_published(writable_hub: WritableHub, made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        VerificationError, match=r"not published, for qt\.verify finds file hashes: .*; no secrets: "
    ) as caught:
        qt.publish(defective(made, tmp_path), REPO, token=WRITE_TOKEN)
    assert TOKEN not in str(caught.value)
    assert REPO not in writable_hub.repositories


@pytest.mark.usefixtures("run_here")
def test_a_card_of_ones_own_is_kept(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["absmax"], tmp_path / "copy")
    card = "---\nlicense: apache-2.0\n---\n# Mine\n"
    new("README.md", card)(folder)
    assert qt.publish(folder, REPO, dry_run=True).card == card


def test_without_a_receipt_nothing_is_published(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["absmax"], tmp_path / "copy")
    (folder / "qtoolkit.json").unlink()
    with pytest.raises(VerificationError, match=r"was not made by qtoolkit: it has no qtoolkit\.json"):
        qt.publish(folder, REPO, dry_run=True)


def test_an_unknown_licence_is_asked_for_before_the_work(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["absmax"], tmp_path / "copy")
    json_of("qtoolkit.json", license=None)(folder)
    with pytest.raises(ConfigError, match="the licence of tiny-llama is not known"):
        qt.publish(folder, REPO, dry_run=True)


@pytest.mark.parametrize("name", ["tiny", "me/ti ny", "a/b/c", "", "me/-x"])
def test_a_name_that_is_none_is_refused(made: dict[str, Path], name: str) -> None:
    with pytest.raises(ConfigError, match="no name of a Hub repository: write it as org/name"):
        qt.publish(made["absmax"], name, dry_run=True)


@pytest.mark.parametrize("verb", ["verify", "publish"])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, verb: str) -> None:
    arguments = ("me/x",) if verb == "publish" else ()
    with pytest.raises(ModelNotFoundError, match="holds no model: name a folder"):
        getattr(qt, verb)(tmp_path, *arguments)
    with pytest.raises(ModelNotFoundError, match="does not exist: name a folder"):
        getattr(qt, verb)(tmp_path / "absent", *arguments)


def test_a_card_of_ones_own_must_name_a_licence(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["absmax"], tmp_path / "copy")
    new("README.md", "# Mine\n")(folder)
    with pytest.raises(ConfigError, match="names the licence None, and none is made up: correct the card"):
        qt.publish(folder, REPO, dry_run=True)


@pytest.mark.usefixtures("run_here")
def test_a_card_that_the_hub_refuses_is_named(writable_hub: WritableHub, made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["absmax"], tmp_path / "copy")
    new("README.md", "---\nlicense: apache-2.0\npipeline_tag: talking\n---\n# Mine\n")(folder)
    with pytest.raises(ConfigError, match=r'does not accept the card README\.md \("pipeline_tag" must be one of'):
        qt.publish(folder, REPO, token=WRITE_TOKEN)
    assert writable_hub.commits == []
