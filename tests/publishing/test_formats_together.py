"""One model in several formats in one repository: a branch for each, and a card that names only what is there."""

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download

import qtoolkit as qt
from qtoolkit.errors import ConfigError, HubUnreachableError, VerificationError
from qtoolkit.publishing import push, read_receipt
from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.server import Fault
from tests.fake_hub.writable import WritableHub
from tests.methods.gptq.jobs import gptq

REPO = "me/tiny"
pytestmark = [pytest.mark.usefixtures("run_here"), pytest.mark.slow]


@pytest.fixture(scope="module")
def formats(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One solve as GPTQ, compressed-tensors and MLX."""
    folder = tmp_path_factory.mktemp("formats")
    config = gptq(bits=4, group_size=32, calibration="self", num_samples=2, seq_len=32, refine=0)
    qt.quantize(base, config, device="cpu", output=folder / "gptq")
    for name in ("compressed-tensors", "mlx"):
        qt.convert(folder / "gptq", name, folder / name)
    return {name: folder / name for name in ("gptq", "compressed-tensors", "mlx")}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)


def publish(formats: dict[str, Path], **options: Any) -> qt.records.Publication:
    first, *others = formats.values()
    return qt.publish(first, REPO, also=others, token=WRITE_TOKEN, **options)


def pulled(branch: str, folder: Path) -> dict[str, bytes]:
    path = Path(snapshot_download(REPO, revision=branch, token=WRITE_TOKEN, local_dir=folder / branch))
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


def test_each_branch_holds_its_folder_and_nothing_of_another(
    writable_hub: WritableHub, formats: dict[str, Path], tmp_path: Path
) -> None:
    record = publish(formats)
    refs = writable_hub.repositories[REPO].refs
    assert refs == {"main": record.commit_hash, **{one.format: one.commit_hash for one in record.other_formats}}
    for branch, name in {"main": "gptq", "compressed-tensors": "compressed-tensors", "mlx": "mlx"}.items():
        files = {file.name: file.read_bytes() for file in formats[name].iterdir()}
        there = pulled(branch, tmp_path)
        assert files.items() <= there.items() and set(there) - set(files) == {"README.md", ".gitattributes"}
        assert qt.verify(tmp_path / branch).failed == ()


def test_the_card_of_main_has_the_lines_that_load_each(
    writable_hub: WritableHub, formats: dict[str, Path], tmp_path: Path
) -> None:
    publish(formats)
    card = pulled("main", tmp_path)["README.md"].decode()
    for name, folder in formats.items():
        branch = "main" if name == "gptq" else name
        size = qt.units.format_bytes((folder / "model.safetensors").stat().st_size)
        assert re.search(rf"\| {name} \| {branch} \| {re.escape(size)} \| not measured \| ", card), card
    assert "vllm serve me/tiny\n" in card
    assert "vllm serve me/tiny --revision compressed-tensors\n" in card
    assert 'mlx_lm.load("me/tiny", revision="mlx")\n' in card
    assert "hf download me/tiny --revision mlx --local-dir mlx" in card
    assert "They are no subfolders, because vLLM, SGLang and mlx-lm look for a model at the root of a revision" in card
    own = pulled("mlx", tmp_path)["README.md"].decode()
    assert 'from_pretrained("me/tiny", revision=\'mlx\', device_map="auto")' in own
    assert "Formats in this repository" not in own


@pytest.mark.parametrize("commits", [0, 1, 2])
def test_a_push_that_breaks_off_claims_nothing_and_goes_on(
    commits: int, writable_hub: WritableHub, formats: dict[str, Path]
) -> None:
    """After any number of commits, main names no format until all are there, and nothing is sent twice."""
    order = ["/commit/mlx", "/commit/compressed-tensors", "/commit/main"]
    writable_hub.faults.append(Fault(order[commits], status=503))
    with pytest.raises(HubUnreachableError):
        publish(formats)
    repository = writable_hub.repositories[REPO]
    assert len(writable_hub.commits) == commits
    assert "README.md" not in repository.commits[repository.refs["main"]]
    writable_hub.faults.clear()

    def uploads() -> list[str]:
        return [one.path for one in writable_hub.requests if one.path.startswith("/storage/") and one.status == 200]

    before = uploads()
    record = publish(formats)
    assert not {*before} & {*uploads()[len(before) :]}
    assert len(writable_hub.commits) == 3 and record.commit_hash == repository.refs["main"]
    again = publish(formats)
    assert len(writable_hub.commits) == 3
    assert all(set(one.unchanged) == set(one.files) for one in (again, *again.other_formats))


def test_a_format_that_joins_later_has_no_files_of_main(
    writable_hub: WritableHub, formats: dict[str, Path], tmp_path: Path
) -> None:
    """A branch that begins where main stands would have GPTQ's `quantize_config.json`."""
    qt.publish(formats["gptq"], REPO, token=WRITE_TOKEN)
    publish({name: formats[name] for name in ("gptq", "mlx")})
    assert "quantize_config.json" in pulled("main", tmp_path)
    assert "quantize_config.json" not in pulled("mlx", tmp_path)
    assert "| mlx | mlx |" in pulled("main", tmp_path)["README.md"].decode()


def test_a_dry_run_tells_each_format(writable_hub: WritableHub, formats: dict[str, Path]) -> None:
    record = publish(formats, dry_run=True)
    assert writable_hub.requests == [] and [one.format for one in record.other_formats] == ["compressed-tensors", "mlx"]
    shown = str(record)
    assert all(re.search(rf"branch +{one.format} +\(8 of 8 files are new", shown) for one in record.other_formats), (
        shown
    )


def test_what_is_not_one_model_in_several_formats(
    writable_hub: WritableHub, formats: dict[str, Path], made: dict[str, Path], tmp_path: Path
) -> None:
    def refusal(**options: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            qt.publish(formats["gptq"], REPO, token=WRITE_TOKEN, **options)
        return str(caught.value)

    assert "are both stored as gptq: a branch is named after its format" in refusal(also=[made["gptq"]])
    assert "leave also out, and open one for each branch" in refusal(also=[formats["mlx"]], create_pr=True)
    assert "main for the first: leave out 'q4'" in refusal(also=[formats["mlx"]], revision="q4")
    assert "also must be a list of folders" in refusal(also=str(formats["mlx"]))
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    for file in formats["mlx"].iterdir():
        (stranger / file.name).write_bytes(file.read_bytes())
    receipt = (stranger / "qtoolkit.json").read_text()
    source = read_receipt(stranger)
    assert source is not None
    (stranger / "qtoolkit.json").write_text(receipt.replace(source.source.name, "other/model"))
    assert "was made of other/model, and " in refusal(also=[stranger])
    assert writable_hub.requests == []


def test_one_folder_that_fails_keeps_all_back(
    writable_hub: WritableHub, formats: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "mlx"
    broken.mkdir()
    for file in formats["mlx"].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "config.json").write_text((broken / "config.json").read_text().replace('"bits": 4', '"bits": 8'))
    with pytest.raises(VerificationError, match=r"is not published, for qt\.verify finds"):
        publish({**formats, "mlx": broken})
    assert REPO not in writable_hub.repositories
