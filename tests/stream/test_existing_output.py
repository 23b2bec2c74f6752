"""What a person has at an output, in it or around it stays, and a result that cannot take its place is kept."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from qtoolkit import files, partial
from qtoolkit.errors import DiskFullError, OutputError, OutputExistsError
from qtoolkit.partial import MARKER
from qtoolkit.records import ProgressEvent
from qtoolkit.stream import staging
from qtoolkit.stream.staging import check_output, journal_of, staged
from qtoolkit.stream.writing import save_model
from tests.sample_models import random_model


def make_model(folder: Path, text: str = "old") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def refusal(output: Path, kind: type[OutputError] = OutputExistsError) -> str:
    """The message with which an output is refused before any work."""
    with pytest.raises(OutputError) as caught:
        check_output(output, overwrite=True)
    assert type(caught.value) is kind
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return make_model(tmp_path / "out")


@pytest.fixture(params=["exchange", "two renames"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(files, "_renameat2", lambda: None)
    return str(request.param)


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize("name", ["notes.txt", ".cache/notes.txt", "config.json", "an empty folder"])
def test_what_was_put_into_the_old_model_meanwhile_is_not_lost(output: Path, name: str) -> None:
    (output / ".cache").mkdir()
    with (  # noqa: PT012
        pytest.raises(OutputExistsError, match="is not what it was when the job began, so it is left as it is"),
        staged(output, overwrite=True) as folder,
    ):
        (folder / "config.json").write_text("new")
        (output / name).write_text("by hand") if "empty" not in name else (output / name).mkdir()
    assert content(output) == {"config.json": "old"} | ({name: "by hand"} if "empty" not in name else {})
    assert (output / "an empty folder").exists() == ("empty" in name)
    assert content(output.with_name("out.partial") / "result") == {"config.json": "new"}


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.EIO])
def test_a_result_that_cannot_take_its_place_is_kept(
    output: Path, how: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise OSError(code, os.strerror(code))

    rename = staging.rename_new
    monkeypatch.setattr(staging, "exchange", refuse if how == "exchange" else lambda *_: False)
    monkeypatch.setattr(staging, "rename_new", lambda a, b: refuse() if b == output else rename(a, b))
    with pytest.raises(OutputExistsError) as caught, staged(output, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
    result = output.with_name("out.partial") / "result"
    assert str(caught.value) == (
        f"{output} cannot be replaced ({os.strerror(code)}): the result is whole in {result}: "
        "move it to where you want it"
    )
    assert content(result) == {"config.json": "new"}
    assert content(output) == {"config.json": "old"}


@pytest.mark.parametrize("before", ["nothing", "a model"])
def test_a_result_whose_name_the_disk_does_not_confirm_is_said_to_stand_there(
    tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    if before == "a model":
        make_model(output)

    def sync(folder: Path) -> None:
        if (output / "config.json").exists() and (output / "config.json").read_text() == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        files.sync_folder(folder)

    monkeypatch.setattr(staging, "sync_folder", sync)
    with pytest.raises(OutputError) as caught, staged(output, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
    message = str(caught.value)
    assert message.startswith(f"{output} is written and whole, but the disk does not confirm it (Input/output error)")
    assert ("what stood there before is in" in message) == (before == "a model")
    assert content(output) == {"config.json": "new"}
    if before == "a model":
        assert content(output.with_name("out.partial") / "model") == {"config.json": "old"}
    # The next job goes its way.
    monkeypatch.undo()
    with staged(output, overwrite=True) as folder:
        (folder / "config.json").write_text("newer")
    assert content(tmp_path) == {"out/config.json": "newer"}


@pytest.mark.parametrize("name", ["thesis.txt", "train.py", ".git/HEAD", "optimizer.state"])
def test_what_is_no_models_is_never_replaced(output: Path, name: str) -> None:
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).write_text("mine")
    top = name.partition("/")[0]
    assert f"holds {top}, which is no file of a model and would be gone: move it, or name" in refusal(output)


@pytest.mark.parametrize("name", ["merges.txt", "LICENSE", "README.md", "model-Q8_0.gguf", ".cache/huggingface/x.lock"])
def test_what_is_a_models_is_replaced_with_it(output: Path, name: str) -> None:
    (output / name).parent.mkdir(exist_ok=True, parents=True)
    (output / name).write_text("a model's")
    check_output(output, overwrite=True)


def test_a_model_in_full_precision_of_somebody_else_is_never_replaced(output: Path) -> None:
    """It may be what other results were made from, and be nowhere else."""
    (output / "model.safetensors").write_bytes(b"weights")
    (output / "config.json").write_text('{"model_type": "llama"}')
    assert "a model in full precision that qtoolkit did not write, which is never replaced" in refusal(output)
    (output / "config.json").write_text('{"model_type": "llama", "quantization_config": {}}')
    check_output(output, overwrite=True)


@pytest.mark.parametrize("variable", ["cwd", "HOME"])
@pytest.mark.parametrize("inside", ["", "a/b"], ids=["is", "holds"])
@pytest.mark.parametrize("empty", [False, True])
def test_the_current_folder_and_the_home_are_never_replaced(
    output: Path, variable: str, inside: str, empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = output / inside
    place.mkdir(parents=True, exist_ok=True)
    if empty and not inside:
        (output / "config.json").unlink()
    if variable == "cwd":
        monkeypatch.chdir(place)
    else:
        monkeypatch.setenv("HOME", str(place))
    message = refusal(output)
    what = "the current folder" if variable == "cwd" else "your home"
    assert f"{'holds' if inside else 'is'} {what}, which is never replaced: name a folder inside it" in message
    with pytest.raises(OutputExistsError, match="never replaced"), staged(output, overwrite=True):
        pass


@pytest.fixture
def mounted(output: Path) -> Iterator[Path]:
    """A disk that is mounted in a model's folder, with somebody's file on it."""
    disk = output / "my data"
    disk.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    command = [mount or "", "-t", "tmpfs", "tmpfs", disk]
    if not (mount and unmount) or os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a disk")
    (disk / "thesis.tex").write_text("mine")
    try:
        yield disk
    finally:
        subprocess.run([unmount, disk], check=True)


def test_a_model_with_a_mount_point_in_it_is_not_replaced(mounted: Path) -> None:
    output = mounted.parent
    assert f"{output} holds the mount point {mounted}, whose files would go too: unmount it" in refusal(output)
    with pytest.raises(OutputExistsError, match="holds the mount point"), staged(output, overwrite=True):
        pass
    assert (mounted / "thesis.tex").read_text() == "mine"


def test_a_model_in_which_a_job_works_is_not_replaced_and_no_output_lies_in_its_folder(output: Path) -> None:
    with staged(output / "inner") as folder:
        assert f"{output / 'inner.partial'} holds an unfinished job, which would go with {output}" in refusal(output)
        assert f"lies in {output / 'inner.partial'}, in which a job works: name another output" in refusal(folder / "x")
        (folder / "config.json").write_text("inner")
    assert content(output) == {"config.json": "old", "inner/config.json": "inner"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("new/..", "/new/.. ends in '..': give the folder's own name"),
        (os.fsdecode(b"caf\xe9"), r"/caf\udce9 is not UTF-8, and no tokenizer is saved there: name another output"),
    ],
    ids=["two dots", "latin-1"],
)
def test_a_name_that_no_result_can_have_is_refused(tmp_path: Path, name: str, message: str) -> None:
    assert refusal(tmp_path / name, OutputError) == f"{tmp_path}{message}"
    assert [*tmp_path.iterdir()] == []


def test_a_full_disk_is_told_with_the_blocks_that_are_kept(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(DiskFullError) as caught, staged(output):  # noqa: PT012
        journal_of(output).mkdir()
        (journal_of(output) / "block-00000.json").write_text("{}")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value).endswith("; blocks that are done are kept, and the same call goes on with them")
    assert (journal_of(output) / "block-00000.json").exists()


def test_a_disk_that_fails_is_told_as_such(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="the disk fails or has gone, name an output on another"),
        staged(tmp_path / "out"),
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert [*tmp_path.iterdir()] == []


def test_what_an_earlier_job_left_and_cannot_be_removed_is_named(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = output.with_name("out.partial")
    make_model(folder / "model", "what was replaced")
    (folder / MARKER).write_text(f"qtoolkit {'0' * 32}\n")

    remove = shutil.rmtree

    def refuse(path: Path, **options: Any) -> None:
        if path == folder / "model":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), "config.json")
        remove(path, **options)

    monkeypatch.setattr(partial.shutil, "rmtree", refuse)
    with pytest.raises(OutputError) as caught, staged(output, overwrite=True):
        pass
    assert str(caught.value) == (
        f"{folder / 'model'}, which an earlier job left, cannot be removed (Operation not permitted): "
        "remove it yourself, or name another output"
    )


def test_a_folder_that_was_moved_while_it_was_saved_is_not_made_anew(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))  # noqa: S106
    folder = tmp_path / "model"
    folder.mkdir()

    def move(event: ProgressEvent) -> None:
        if event.done == event.total:
            folder.rename(tmp_path / "moved")

    with pytest.raises(OutputError, match=r"lost config\.json"):
        save_model(random_model("llama"), PreTrainedTokenizerFast(tokenizer_object=words), folder, move)
    assert not folder.exists()
