"""An output folder appears when it is whole, and what stood there before is never lost."""

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import qtoolkit as qt
from qtoolkit import files
from qtoolkit.errors import DiskFullError, JobCancelled, ModelNotFoundError, OutputError, OutputExistsError
from qtoolkit.partial import put_back
from qtoolkit.records import ProgressEvent
from qtoolkit.stream.staging import check_output, staged
from qtoolkit.stream.writing import save_model, write_weights
from tests.sample_models import random_model

NOBODY = 65534


def ignore(_: ProgressEvent) -> None:
    pass


def make_model(folder: Path, content: str = "old") -> Path:
    """What counts as a model here: a folder with a config."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(content)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else "" for path in folder.rglob("*")}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_two_jobs_do_not_write_the_same_output(output: Path) -> None:
    with staged(output) as partial:
        (partial / "config.json").write_text("first")
        with pytest.raises(OutputError, match=r"another job is writing .*out.partial: wait"), staged(output):
            pass
        assert content(partial) == {"config.json": "first"}
    assert content(output) == {"config.json": "first"}
    # Free again.
    with staged(output, overwrite=True) as partial:
        (partial / "config.json").write_text("second")
    assert content(output) == {"config.json": "second"}


def test_it_appears_when_the_block_has_ended(output: Path) -> None:
    with staged(output) as partial:
        assert partial == output.with_name("out.partial") / "model"
        assert [*partial.iterdir()] == []
        (partial / "config.json").write_text("new")
        assert not output.exists()
    assert content(output.parent) == {"out": "", "out/config.json": "new"}


def test_missing_parents_are_made(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b" / "out"
    check_output(output, overwrite=False)
    assert content(tmp_path) == {}
    with staged(output) as partial:
        (partial / "config.json").write_text("new")
    assert content(tmp_path) == {"a": "", "a/b": "", "a/b/out": "", "a/b/out/config.json": "new"}


def test_what_stood_there_is_replaced_only_at_the_end(output: Path) -> None:
    make_model(output)
    (output / ".cache").mkdir()
    check_output(output, overwrite=True)
    with staged(output, overwrite=True) as partial:
        (partial / "config.json").write_text("new")
        assert (output / "config.json").read_text() == "old"
    assert content(output.parent) == {"out": "", "out/config.json": "new"}


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a model"])
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("x"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (JobCancelled("stop"), JobCancelled),
        (PermissionError(errno.EACCES, "Permission denied"), OutputError),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFullError),
        (OSError("a message alone"), OutputError),
        (ModelNotFoundError("also an OSError"), ModelNotFoundError),
    ],
    ids=["error", "interrupt", "cancelled", "not permitted", "disk full", "quota", "no number", "ours"],
)
def test_a_block_that_fails_leaves_all_as_it_was(
    tmp_path: Path, raised: BaseException, expected: type[BaseException], before: str
) -> None:
    output = tmp_path / "a" / "b"
    if before == "a model":
        make_model(output)
    elif before == "an empty folder":
        output.mkdir(parents=True)
    found = content(tmp_path)
    with pytest.raises(expected) as caught, staged(output, overwrite=True) as partial:  # noqa: PT012
        (partial / "half").write_text("written")
        raise raised
    assert type(caught.value) is expected
    assert content(tmp_path) == found
    if isinstance(caught.value, OutputError):
        assert str(caught.value).startswith(f"{output} cannot be written (")
        assert len(str(caught.value).splitlines()) == 1
        assert str(caught.value).endswith(", or name another output") or "another disk" in str(caught.value)


@pytest.fixture(params=["exchange", "two renames"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the exchange of two folders, and as on systems that have none."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "_renameat2", lambda: None)
    return str(request.param)


def test_a_model_is_replaced_in_both_ways(output: Path, how: str) -> None:
    make_model(output)
    with staged(output, overwrite=True) as partial:
        (partial / "config.json").write_text("new")
    assert content(output.parent) == {"out": "", "out/config.json": "new"}


@pytest.mark.parametrize("raised", [KeyboardInterrupt, PermissionError])
def test_a_stop_between_the_two_renames_undoes_the_first(
    output: Path, monkeypatch: pytest.MonkeyPatch, raised: type[BaseException]
) -> None:
    make_model(output)
    rename = Path.rename

    def stop(path: Path, target: Path) -> Path:
        if path.name == "model" and target == output:
            assert not output.exists()
            raise raised
        return rename(path, target)

    monkeypatch.setattr(files, "_renameat2", lambda: None)
    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises((KeyboardInterrupt, OutputError)), staged(output, overwrite=True) as partial:
        (partial / "config.json").write_text("new")
    assert content(output) == {"config.json": "old"}
    assert output.with_name("out.partial").exists() == (raised is PermissionError)  # which keeps the result


KILLED = """
import os, signal, sys
from pathlib import Path
from qtoolkit import files
from qtoolkit.stream import staging

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def job(output, moment):
    exchange, rename = staging.exchange, Path.rename

    def killed_exchange(first, second):
        if moment == "before the exchange":
            die()
        assert exchange(first, second)
        die()

    def killed_rename(path, target):
        if (path.name, moment) in {("out", "before the renames"), ("model", "between the renames")}:
            die()
        rename(path, target)
        if (path.name, moment) == ("model", "after the renames"):
            die()

    if "exchange" in moment:
        staging.exchange = killed_exchange
    else:
        files._renameat2 = lambda: None
        Path.rename = killed_rename
    with staging.staged(output, overwrite=True) as partial:
        (partial / "config.json").write_text("new")
        if moment == "while it writes":
            die()

for moment in sys.argv[2:]:
    pid = os.fork()
    if pid == 0:
        job(Path(sys.argv[1]) / moment / "out", moment)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
DONE = ("after the exchange", "after the renames")
MOMENTS = ("while it writes", "before the exchange", "before the renames", "between the renames", *DONE)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jobs that were killed, each in a folder named by the moment, with a model of before at `out`."""
    folder = tmp_path_factory.mktemp("killed")
    for moment in MOMENTS:
        make_model(folder / moment / "out")
    run = [sys.executable, "-W", "ignore", "-c", KILLED, folder, *MOMENTS]
    codes = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert codes.split() == ["-9"] * len(MOMENTS)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_after_a_kill_nothing_is_lost_and_the_same_call_works(killed: Path, tmp_path: Path, moment: str) -> None:
    shutil.copytree(killed / moment, tmp_path, dirs_exist_ok=True)
    output = tmp_path / "out"
    with pytest.raises(OutputExistsError, match="give overwrite=True to replace it"):
        check_output(output, overwrite=False)
    assert content(output) == {"config.json": "new" if moment in DONE else "old"}

    check_output(output, overwrite=True)
    with staged(output, overwrite=True) as partial:
        (partial / "config.json").write_text("newer")
    assert content(tmp_path) == {"out": "", "out/config.json": "newer"}


@pytest.mark.slow
def test_a_job_without_check_gives_a_stopped_replacement_its_name_back_too(killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed / "between the renames", tmp_path, dirs_exist_ok=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(JobCancelled), staged(tmp_path / "out"):
        raise JobCancelled
    assert content(tmp_path) == {"out": "", "out/config.json": "old"}


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["load", "verify", "plan", "evaluate"])
def test_verbs_that_read_an_output_give_it_its_name_back(killed: Path, tmp_path: Path, verb: str) -> None:
    more = {"plan": ["absmax"], "evaluate": []}.get(verb, [])
    shutil.copytree(killed / "between the renames", tmp_path, dirs_exist_ok=True)
    assert not (tmp_path / "out").exists()
    with suppress(qt.QToolkitError):  # it holds a config alone
        getattr(qt, verb)(tmp_path / "out", *more)
    assert content(tmp_path / "out") == {"config.json": "old"}


def test_what_a_job_is_replacing_is_not_put_back_under_it(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(output)
    rename = Path.rename

    def read_between(path: Path, target: Path) -> Path:
        if path.name == "model":
            put_back(output)
            assert not output.exists()
        return rename(path, target)

    monkeypatch.setattr(files, "_renameat2", lambda: None)
    monkeypatch.setattr(Path, "rename", read_between)
    with staged(output, overwrite=True) as partial:
        (partial / "config.json").write_text("new")
    assert content(output.parent) == {"out": "", "out/config.json": "new"}


def refusal(output: Path, kind: type[OutputError] = OutputExistsError, *, overwrite: bool = True) -> str:
    with pytest.raises(kind) as caught:
        check_output(output, overwrite=overwrite)
    assert type(caught.value) is kind
    assert str(output) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value).removeprefix(str(output))


def test_a_model_that_exists_is_refused_unless_it_may_be_replaced(output: Path) -> None:
    make_model(output)
    assert refusal(output, overwrite=False) == " exists: name another output, or give overwrite=True to replace it"
    check_output(output, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_replaced(output: Path, overwrite: bool) -> None:
    output.mkdir()
    (output / "thesis.tex").write_text("mine")
    assert "exists: name another output (it holds no model" in refusal(output, overwrite=overwrite)


def test_an_empty_folder_may_become_the_output(output: Path) -> None:
    output.mkdir()
    check_output(output, overwrite=False)
    with staged(output) as partial:
        (partial / "config.json").write_text("new")
    assert content(output) == {"config.json": "new"}


@pytest.mark.parametrize("kind", ["file", "link to a folder", "broken link"])
def test_what_is_no_folder_is_refused(tmp_path: Path, output: Path, kind: str) -> None:
    if kind == "file":
        output.write_text("mine")
    else:
        output.symlink_to(make_model(tmp_path / "model") if kind == "link to a folder" else tmp_path / "nothing")
    before = content(tmp_path)
    assert refusal(output) == " is not a folder: name another output"
    assert content(tmp_path) == before


def test_a_mount_point_is_refused() -> None:
    assert "is a mount point, which cannot be renamed: name a folder inside it" in refusal(Path("/"))


@pytest.mark.parametrize("kind", ["under a file", "under a broken link", "a name that is too long"])
def test_where_no_folder_can_be_made_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nothing")
    outputs = {
        "under a file": tmp_path / "file" / "a" / "out",
        "under a broken link": tmp_path / "link" / "out",
        "a name that is too long": tmp_path / ("x" * 250),
    }
    before = sorted(tmp_path.iterdir())
    assert refusal(outputs[kind], OutputError).endswith("): name another output")
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A folder with a model in it, in which this process may not write; as root, by being nobody for a while."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "out")
        folder.chmod(0o555)
        as_root = os.geteuid() == 0
        if as_root:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if as_root:
                os.seteuid(0)
            folder.chmod(0o755)


@pytest.mark.parametrize("name", ["out", "new", "a/new"])
def test_a_folder_in_which_one_may_not_write_is_refused(forbidden: Path, name: str) -> None:
    assert refusal(forbidden / name, OutputError) == " cannot be written (Permission denied): name another output"
    with (
        pytest.raises(OutputError, match=r"Permission denied.*check its permissions"),
        staged(forbidden / name, overwrite=True),
    ):
        pass
    assert content(forbidden) == {"out": "", "out/config.json": "old"}


@pytest.fixture(params=["size=1m", "size=1m,ro"], ids=["small", "read-only"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A disk of 1 MB, to write on or not."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", request.param, "tmpfs", folder]
    if mount is None or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a disk")
    try:
        yield request.param, folder
    finally:
        subprocess.run([shutil.which("umount") or "umount", folder], check=True)


def test_a_disk_that_fills_up_or_is_read_only_leaves_nothing(mounted: tuple[str, Path]) -> None:
    options, disk = mounted
    if options.endswith("ro"):
        assert "Read-only file system" in refusal(disk / "out", OutputError)
        return
    make_model(disk / "out")
    check_output(disk / "out", overwrite=True)
    tensors = {f"t{number}": torch.ones(50_000) for number in range(10)}
    with (
        pytest.raises(DiskFullError, match=r"No space left on device.*free some room"),
        staged(disk / "out", overwrite=True) as partial,
    ):
        write_weights(tensors, partial, ignore)
    assert content(disk) == {"out": "", "out/config.json": "old"}


@pytest.fixture
def file_limit() -> Iterator[int]:
    """No file of this process may become larger than 1 MB; Python ignores the signal, so writing fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        yield 1_000_000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_weight_file_that_cannot_grow_leaves_nothing(output: Path, file_limit: int) -> None:
    with pytest.raises(DiskFullError, match=r"File too large.*ulimit -f"), staged(output) as partial:
        write_weights({"a": torch.ones(file_limit // 2)}, partial, ignore)
    assert content(output.parent) == {}


def test_a_tokenizer_file_that_cannot_grow_leaves_nothing(output: Path, smollm2: Path, file_limit: int) -> None:
    """The tokenizers library writes it in Rust, and reports the failure in words alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert (smollm2 / "tokenizer.json").stat().st_size > file_limit
    with pytest.raises(DiskFullError, match=r"File too large.*ulimit -f"), staged(output) as partial:
        save_model(random_model("llama"), tokenizer, partial, ignore)
    assert content(output.parent) == {}
