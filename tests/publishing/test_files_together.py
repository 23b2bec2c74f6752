"""Several `.gguf` files of one model in one branch: programs choose one by its type, and a card compares them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download

import qtoolkit as qt
from qtoolkit.checkpoints.imatrix import read_imatrix
from qtoolkit.errors import ConfigError, HubUnreachableError, UnsupportedModelError
from qtoolkit.publishing import push, read_receipt
from qtoolkit.records import Publication, QualityReport
from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.server import Fault
from tests.fake_hub.writable import WritableHub
from tests.methods.gptq.jobs import TEXTS

REPO = "me/tiny"
FILES = {name: f"tiny-llama-{name}.gguf" for name in ("Q8_0", "Q4_0", "Q5_0")}
pytestmark = [pytest.mark.usefixtures("run_here"), pytest.mark.slow]


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    weighed = qt.GGUF("Q5_0", calibration=TEXTS, num_samples=2, seq_len=32, solve=False)
    for name in FILES:
        config = weighed if name == "Q5_0" else qt.GGUF(name, modelfile=True)
        qt.quantize(base, config, device="cpu", output=folder / name)
    return {name: folder / name for name in FILES}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)


def publish(folders: dict[str, Path], names: Sequence[str] = ("Q8_0", "Q4_0"), **options: Any) -> Publication:
    first, *others = (folders[name] for name in names)
    return qt.publish(first, REPO, also=others, token=WRITE_TOKEN, **options)


def pulled(folder: Path) -> Path:
    return Path(snapshot_download(REPO, token=WRITE_TOKEN, local_dir=folder / "tiny"))


def report(folder: Path, loss: float, **changes: Any) -> QualityReport:
    receipt = read_receipt(folder)
    assert receipt is not None
    figures: dict[str, Any] = {
        "model": folder.name, "base": "tiny-llama", "text": "wikitext2", "text_fingerprint": "f" * 64, "num_windows": 1,
        "seq_len": 32, "stride": 32, "begins_with": "", "num_tokens": 31, "perplexity": 20 + loss,
        "perplexity_se": None,
        "kl_divergence": loss, "weights_fingerprint": receipt.weights_fingerprint,
    }  # fmt: skip
    return QualityReport(**figures | changes)


def test_all_files_stand_in_main_by_one_commit(
    writable_hub: WritableHub, folders: dict[str, Path], tmp_path: Path
) -> None:
    """With the first one's config; each brings its receipt, so that a download is verified."""
    record = publish(folders, FILES)
    assert writable_hub.repositories[REPO].refs == {"main": record.commit_hash}
    assert len(writable_hub.commits) == 1
    there = pulled(tmp_path)
    for name, file in FILES.items():
        assert (there / file).read_bytes() == (folders[name] / file).read_bytes()
    first = {file.name: file.read_bytes() for file in folders["Q8_0"].iterdir()}
    assert first.items() <= {file.name: file.read_bytes() for file in there.iterdir() if file.is_file()}.items()
    assert {*record.files} - {*first} == {
        *("README.md", FILES["Q4_0"], FILES["Q5_0"], "tiny-llama-Q4_0.qtoolkit.json", "tiny-llama-Q5_0.qtoolkit.json"),
        *("tiny-llama-Q4_0.Modelfile", "tiny-llama-Q5_0.imatrix.gguf_file"),
    }
    assert f"FROM ./{FILES['Q8_0']}" in (there / "Modelfile").read_text()
    assert f"FROM ./{FILES['Q4_0']}" in (there / "tiny-llama-Q4_0.Modelfile").read_text()
    assert read_imatrix(there / "tiny-llama-Q5_0.imatrix.gguf_file").datasets == ("4 texts",)
    assert [*record.beside] == [FILES["Q4_0"], FILES["Q5_0"]]
    assert qt.verify(there).failed == ()


def test_a_file_that_no_receipt_vouches_for_is_found(folders: dict[str, Path], tmp_path: Path) -> None:
    publish(folders, dry_run=True)
    there = shutil.copytree(folders["Q8_0"], tmp_path / "tiny")
    shutil.copy(folders["Q4_0"] / FILES["Q4_0"], there)
    receipt = there / "tiny-llama-Q4_0.qtoolkit.json"
    told = f"{FILES['Q4_0']} was not written by the job: remove it"

    def hashes() -> str:
        (check,) = (check for check in qt.verify(there).checks if check.name == "file hashes")
        return f"{check.passed} {check.value}"

    assert hashes() == f"False {told}"
    shutil.copy(folders["Q4_0"] / "qtoolkit.json", receipt)
    assert hashes().startswith("True")
    file = there / FILES["Q4_0"]
    sound = file.read_bytes()
    file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert hashes() == f"False {told}"
    file.write_bytes(sound)
    receipt.write_text(receipt.read_text().replace('"name": "tiny-llama"', '"name": "other"'))
    assert hashes() == f"False {told}"
    receipt.write_text("{")
    assert told in hashes() and receipt.name in hashes()


def test_the_card_has_a_table_and_the_commands_of_each(folders: dict[str, Path]) -> None:
    card = publish(folders, dry_run=True).card
    for name in ("Q8_0", "Q4_0"):
        size = qt.units.format_bytes((folders[name] / FILES[name]).stat().st_size)
        receipt = read_receipt(folders[name])
        assert receipt is not None
        bits = f"{8 * receipt.memory.footprint_after / receipt.memory.num_parameters:.2f}"
        file = FILES[name].replace("_", r"\_")
        kind = name.replace("_", r"\_")
        assert f"| {file} | {kind} | {size} | {bits} | not measured | not measured |" in card
        for command in (f"llama-cli -hf {REPO}:{name}", f"ollama run hf.co/{REPO}:{name}", f"{REPO}@{name}"):
            assert card.count(command) == 1
    assert "dominated" not in card
    assert "Files in this repository" not in qt.publish(folders["Q8_0"], REPO, dry_run=True).card


def test_the_card_tells_which_file_is_dominated(folders: dict[str, Path]) -> None:
    """Q5_0 is smaller than Q8_0: where it loses less too, nobody needs Q8_0."""
    losses = {"Q8_0": 0.02, "Q4_0": 0.3, "Q5_0": 0.01}
    reports = [report(folders[name], loss) for name, loss in losses.items()]
    card = publish(folders, FILES, dry_run=True, quality=reports).card
    assert r"tiny-llama-Q8\_0.gguf is dominated: tiny-llama-Q5\_0.gguf is no larger and loses no more." in card
    assert card.count("is dominated") == 1
    assert "| 0.3 nats | 20.3 |" in card
    reports[0] = report(folders["Q8_0"], 0.001)
    card = publish(folders, FILES, dry_run=True, quality=reports[:2]).card
    assert "None of the measured files is dominated" in card and "| not measured | not measured |" in card
    reports[0] = report(folders["Q8_0"], 0.001, text_fingerprint="e" * 64)
    assert "measured on different texts" in publish(folders, FILES, dry_run=True, quality=reports).card


def test_what_was_measured_is_of_these_files(folders: dict[str, Path]) -> None:
    first = report(folders["Q8_0"], 0.1)
    with pytest.raises(ConfigError, match="was measured on other weights than these"):
        publish(folders, dry_run=True, quality=[first, report(folders["Q5_0"], 0.1)])
    with pytest.raises(ConfigError, match="quality holds two reports of 'Q8_0'"):
        publish(folders, dry_run=True, quality=[first, first])
    assert "| 0.1 nats |" in publish(folders, dry_run=True, quality=first).card


def test_a_file_is_measured_by_its_folder(folders: dict[str, Path], base: Path) -> None:
    """By real figures, which the fingerprint of the `.gguf` file binds to it."""
    quality = qt.evaluate(
        folders["Q4_0"], base=base, text=["a text " * 40], seq_len=32, num_tokens=32, speed=False, device="cpu"
    )
    card = publish(folders, dry_run=True, quality=quality).card
    assert f"{quality.kl_divergence:.4g} nats" in card


def test_a_push_that_breaks_off_goes_on(writable_hub: WritableHub, folders: dict[str, Path]) -> None:
    """Nothing of it is there before all is, and nothing is sent twice."""
    writable_hub.faults.append(Fault("/commit/main", status=503))
    with pytest.raises(HubUnreachableError):
        publish(folders)
    assert writable_hub.commits == []
    writable_hub.faults.clear()

    def uploads() -> list[str]:
        return [one.path for one in writable_hub.requests if one.path.startswith("/storage/") and one.status == 200]

    before = uploads()
    publish(folders)
    assert before and uploads() == before
    again = publish(folders)
    assert len(writable_hub.commits) == 1 and {*again.unchanged} == {*again.files}


def test_a_type_joins_later(writable_hub: WritableHub, folders: dict[str, Path], tmp_path: Path) -> None:
    qt.publish(folders["Q8_0"], REPO, token=WRITE_TOKEN)
    with pytest.raises(ConfigError, match=rf"holds {FILES['Q8_0']}, which this model has not: .*also="):
        qt.publish(folders["Q4_0"], REPO, token=WRITE_TOKEN)
    record = publish(folders)
    assert FILES["Q8_0"] in record.unchanged and FILES["Q4_0"] not in record.unchanged
    assert qt.verify(pulled(tmp_path)).failed == ()


def test_each_is_loaded_by_its_type(
    writable_hub: WritableHub, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    publish(folders)
    with pytest.raises(UnsupportedModelError, match=rf"name one of {REPO}:Q4_0 \(.* kB\), {REPO}:Q8_0 \(.* kB\)"):
        qt.load(REPO)
    assert qt.plan(f"{REPO}:Q4_0", "absmax").source.disk_size == (folders["Q4_0"] / FILES["Q4_0"]).stat().st_size


def test_what_cannot_stand_beside(
    writable_hub: WritableHub, folders: dict[str, Path], made: dict[str, Path], tmp_path: Path
) -> None:
    def refusal(*others: Path, first: Path = folders["Q8_0"]) -> str:
        with pytest.raises(ConfigError) as caught:
            qt.publish(first, REPO, token=WRITE_TOKEN, also=others)
        return str(caught.value)

    def changed(title: str, file: str, old: str = "", new: str = "") -> Path:
        folder = shutil.copytree(folders["Q4_0"], tmp_path / title)
        text = (folder / file).read_text() if old else ""
        (folder / file).write_text(text.replace(old, new) if old else new)
        return folder

    assert "are both stored as Q8_0: a file is chosen by its type" in refusal(folders["Q8_0"])
    assert "was made of other, and " in refusal(
        changed("of", "qtoolkit.json", '"name": "tiny-llama"', '"name": "other"')
    )
    assert "README.md is not published, since one card is made" in refusal(changed("card", "README.md", new="# mine"))
    assert "tokenizer.json are not the same" in refusal(changed("words", "tokenizer.json", "{", "{ "))
    mixed = refusal(folders["Q8_0"], folders["Q4_0"], first=made["absmax"])
    assert "are one file each, which stand beside each other in one branch" in mixed
    assert writable_hub.requests == []
