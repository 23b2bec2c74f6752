"""A publication after a verification or a dry run of the same files does not load the model once more, and says so."""

import os
import shutil
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.publishing import run_cache
from qtoolkit.records import Publication


@pytest.fixture
def folder(made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["absmax"], tmp_path / "absmax"))


def published(folder: Path) -> Publication:
    return qt.publish(folder, "me/x", license="apache-2.0", dry_run=True)


def test_it_runs_once_until_a_file_changes(folder: Path, run_here: list[str]) -> None:
    first = qt.verify(folder)
    again = published(folder)
    assert len(run_here) == 1
    assert (first.recalled, again.verification.recalled) == (False, True)
    assert again.verification.checks == first.checks
    assert "earlier in this session" in str(again) and "earlier in this session" not in str(first)
    # The same bytes, and yet another file: nobody knows what it was meanwhile.
    os.utime(folder / "config.json", ns=(1, 1))
    assert not published(folder).verification.recalled
    assert len(run_here) == 2
    assert published(folder).verification.recalled


def test_a_notebook_that_is_saved_changes_nothing(
    folder: Path, run_here: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    monkeypatch.syspath_prepend(notebooks)
    published(folder)
    (notebooks / "saved.ipynb").touch()
    assert published(folder).verification.recalled
    assert len(run_here) == 1


def test_what_is_refused_by_its_files_does_not_run(folder: Path, run_here: list[str]) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1] + b"?")
    with pytest.raises(qt.QToolkitError, match="file hashes") as refused:
        published(folder)
    assert "transformers" not in str(refused.value)
    assert run_here == []
    assert qt.verify(folder).checks[-1].name != "loads in transformers"
    assert len(run_here) == 1


def test_verify_runs_anew_each_time(folder: Path, run_here: list[str]) -> None:
    assert not any(qt.verify(folder).recalled for _ in range(2))
    assert len(run_here) == 2


def test_bytes_are_compared_each_time(folder: Path, run_here: list[str]) -> None:
    published(folder)
    file = folder / "model.safetensors"
    state, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    # As if nothing had happened to it.
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(qt.QToolkitError, match=r"model\.safetensors has other content"):
        published(folder)
    assert len(run_here) == 1


@pytest.mark.usefixtures("run_here")
@pytest.mark.parametrize("what", ["package", "base", "failure", "failure of the base"])
def test_it_runs_anew_after(
    what: str, folder: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages, of = tmp_path / "site-packages", Path(shutil.copytree(base, tmp_path / "base"))
    packages.mkdir()
    monkeypatch.syspath_prepend(packages)
    request = {"folder": str(folder), "base": str(of)}
    answer = {"model_error": "out of memory" if what == "failure" else "", "base": None}
    answer |= {"base": {"error": "not done"}} if what == "failure of the base" else {}
    run_cache.remember(run_cache.state_of(request), answer)
    assert (run_cache.recall(run_cache.state_of(request)) is None) == what.startswith("failure")
    if what == "package":
        (packages / "new").mkdir()
    if what == "base":
        (of / "tokenizer.json").touch()
    assert run_cache.recall(run_cache.state_of(request)) is None


def test_only_the_last_answers_are_kept() -> None:
    run_cache.clear()
    answer = {"model_error": "", "base": None}
    states = [str(number) for number in range(run_cache.MAX_ANSWERS + 2)]
    for state in states:
        run_cache.remember(state, answer)
    assert [state for state in states if run_cache.recall(state) is None] == ["0", "1"]
    run_cache.clear()
    assert run_cache.recall(states[-1]) is None
