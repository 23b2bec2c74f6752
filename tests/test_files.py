"""A file that is written whole, or stays what it was."""

import errno
import inspect
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants

import qtoolkit as qt
from qtoolkit import files
from qtoolkit.errors import ConfigError, ModelNotFoundError, OutputError
from qtoolkit.evaluation.llama_cpp import LlamaCppModel
from qtoolkit.files import cache_json, make_folder, read_json, scratch_folder, user_cache, write_whole
from qtoolkit.partial import put_back
from qtoolkit.publishing.patterns import local_paths
from tests.records.test_comparison import COMPARISON


def test_a_file_is_replaced_and_its_neighbours_stay(tmp_path: Path) -> None:
    for name in ("a.csv", "a.new", "a"):
        (tmp_path / name).write_text("mine")
    write_whole(tmp_path / "a.csv", b"new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "a.csv": "new",
        "a.new": "mine",
        "a": "mine",
    }


def test_what_stood_there_stays_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a.csv", "text is no bytes")  # type: ignore[arg-type]
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


def test_the_cache_is_where_the_user_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "qtoolkit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == Path.home() / ".cache" / "qtoolkit"


def test_threads_that_write_one_file_show_no_half_of_it(tmp_path: Path) -> None:
    file, contents = tmp_path / "file", [letter * 300_000 for letter in (b"a", b"b", b"c")]
    write_whole(file, contents[0])

    def write_often(content: bytes) -> None:
        for _ in range(30):
            write_whole(file, content)

    with ThreadPoolExecutor() as pool:
        writing = [pool.submit(write_often, content) for content in contents]
        while not all(one.done() for one in writing):
            assert file.read_bytes() in contents
        for one in writing:
            one.result()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder that is not there any more."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()


@pytest.mark.usefixtures("removed")
@pytest.mark.skipif(os.name == "nt", reason="Windows removes no current folder")
def test_in_a_removed_folder_whole_paths_work_and_others_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    qt.quantize(tiny_llama, qt.AbsMax(), device="cpu", output=made)
    assert qt.plan(tiny_llama, qt.AbsMax(), device="cpu", output=tmp_path / "other")
    calls = [
        lambda: qt.quantize(tiny_llama, qt.AbsMax(), device="cpu", output="made"),
        lambda: qt.plan(tiny_llama, qt.AbsMax(), device="cpu", output="made"),
        lambda: qt.verify("made"),
        lambda: qt.compare(tiny_llama, [Path("made")], text=["a"], num_tokens=8, seq_len=8),
        lambda: qt.run_tasks(tiny_llama, Path("made")),
        lambda: COMPARISON.to_csv("made"),
        lambda: COMPARISON.to_json(Path("made")),
        lambda: LlamaCppModel("made"),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="'made' is relative, and the current folder was removed"):
            call()
    put_back(Path("made"))
    with pytest.raises(ModelNotFoundError, match="is no folder and not in the local Hub cache"):
        qt.verify(made, base="org/model")
    with pytest.raises(ConfigError, match="no method 'nf5'"):
        qt.compare(tiny_llama, ["nf5"], text=["a"], num_tokens=8, seq_len=8)
    with pytest.raises(ModelNotFoundError, match=r"'made\.gguf' does not exist"):
        qt.load(Path("made.gguf"))


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home, as `docker run --user` makes them; huggingface_hub then has a cache called "~"."""

    def unknown(_: int | str) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwnam", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("USERPROFILE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")


@pytest.mark.usefixtures("homeless")
@pytest.mark.skipif(os.name == "nt", reason="Windows knows homes by variables alone")
@pytest.mark.parametrize("here", [True, False], ids=["in a folder", "in a removed one"])
def test_without_a_home_no_verb_fails_by_a_path(
    here: bool, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if here:
        monkeypatch.chdir(tmp_path)
    else:
        request.getfixturevalue("removed")
    assert qt.local_models() == ()
    assert qt.doctor()
    assert qt.plan(tiny_llama, qt.AbsMax(), device="cpu")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    options = {"text": ["a"], "num_tokens": 8, "seq_len": 8}
    for call, told in (
        (lambda: qt.load("~/model"), "'~/model'"),
        (lambda: qt.load(damaged), "is not valid JSON .*: save it anew"),
        (lambda: qt.compare(tiny_llama, [Path("~/made")], **options), "~/made"),
        (lambda: qt.run_tasks(tiny_llama, "~/tasks"), "~/tasks"),
        (lambda: COMPARISON.to_csv("~/folder/made.csv"), "~/folder/made.csv"),
        (lambda: LlamaCppModel("~/made.gguf"), "~/made.gguf"),
    ):
        with pytest.raises(qt.QToolkitError, match=told):
            call()


@pytest.mark.usefixtures("homeless")
@pytest.mark.skipif(os.name == "nt", reason="Windows knows homes by variables alone")
def test_a_user_without_a_home_keeps_nothing() -> None:
    cache_json(user_cache() / "file.json", {"a": 1})
    assert read_json(user_cache() / "file.json") == {}
    assert local_paths().search(b"/home/ann/x")
    assert qt.doctor()


def test_a_folder_deeper_than_python_calls_itself_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "sync_folder", lambda _: None)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        make_folder(tmp_path / ("a/" * 200))
    finally:
        sys.setrecursionlimit(limit)
    assert (tmp_path / ("a/" * 200)).is_dir()


def test_a_full_disk_of_temporary_files_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full = r"temporary files cannot be written.*\(No space left on device\): free some room there, or set TMPDIR"
    with pytest.raises(OutputError, match=full), scratch_folder("x-"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(OutputError, match=full), scratch_folder("x-"):
            pass
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(FileNotFoundError), scratch_folder("x-"):
        raise FileNotFoundError(errno.ENOENT, "of something else")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with (
        pytest.raises(OutputError, match=f"cannot be written in {tmp_path / 'missing'} .No such file"),
        scratch_folder("x-"),
    ):
        pass
