"""What is not qtoolkit's own is left as it is: folders of the names that a job needs, links, what appears meanwhile."""

import os
import shutil
import stat
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit import files
from qtoolkit.errors import OutputError, OutputExistsError
from qtoolkit.partial import MARKER, marker_of, put_back
from qtoolkit.stream.staging import check_output, journal_of, staged


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else "" for path in folder.rglob("*")}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(params=["exchange", "plain renames"], autouse=True)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With Linux' renames, which do not replace what they are not told to, and as on systems that have none."""
    if request.param == "plain renames":
        monkeypatch.setattr(files, "_renameat2", lambda: None)
    return str(request.param)


def make_model(folder: Path, text: str = "old") -> None:
    folder.mkdir()
    (folder / "config.json").write_text(text)


def make(folder: Path, kind: str) -> None:
    """Somebody's own folder, or a link to one."""
    real = folder.with_name("mine") if kind == "link" else folder
    real.mkdir()
    (real / "thesis.tex").write_text("mine")
    if kind == "older version":
        (real / "journal").mkdir()
        (real / "journal" / "block-00000.json").write_text("{}")
    if kind == "empty":
        (real / "thesis.tex").unlink()
    if kind == "damaged marker":
        (real / MARKER).write_text("qtoolkit 123\n")
    if kind == "link for a marker":
        (real / MARKER).symlink_to("thesis.tex")
    if kind == "link":
        folder.symlink_to(real)


@pytest.mark.parametrize("kind", ["folder", "empty", "older version", "link", "damaged marker", "link for a marker"])
@pytest.mark.parametrize("suffix", [".partial", ".replaced"])
def test_a_folder_without_the_marker_is_refused_by_name_and_stays(output: Path, suffix: str, kind: str) -> None:
    folder = output.with_name(f"out{suffix}")
    make(folder, kind)
    before = content(output.parent)
    told = rf"{folder} does not carry qtoolkit's marker.*name another output$"
    with pytest.raises(OutputExistsError, match=told):
        check_output(output, overwrite=True)
    with pytest.raises(OutputExistsError, match=told), staged(output, overwrite=True, resume=False):
        pass
    put_back(output)
    assert content(output.parent) == before


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link", "another model"])
@pytest.mark.parametrize("before", ["nothing", "a model"])
def test_what_appears_while_a_job_runs_stays_and_so_does_the_result(output: Path, before: str, kind: str) -> None:
    if before == "a model":
        make_model(output)
    with pytest.raises(OutputExistsError) as caught, staged(output, overwrite=True) as folder:  # noqa: PT012
        (folder / "config.json").write_text("new")
        if before == "a model":
            shutil.rmtree(output)
        if kind == "another model":
            make_model(output, "theirs")
        elif kind == "file":
            output.write_text("mine")
        elif kind == "link":
            output.symlink_to("nowhere")
        else:
            output.mkdir()
            if kind == "folder":
                (output / "thesis.tex").write_text("mine")
        appeared = os.lstat(output), content(output)
    assert (os.lstat(output).st_ino, content(output)) == (appeared[0].st_ino, appeared[1])
    result = output.with_name("out.partial") / "result"
    assert str(result) in str(caught.value) and "move it to where you want it" in str(caught.value)
    assert content(result) == {"config.json": "new"}

    # The next job does not remove it.
    if kind != "link":
        shutil.rmtree(output) if output.is_dir() else output.unlink()
        with pytest.raises(OutputExistsError, match=r"out.partial/result is a result that could not take its place"):
            check_output(output, overwrite=True)
        with pytest.raises(OutputExistsError, match="could not take its place"), staged(output, overwrite=True):
            pass
        result.rename(output)
        with staged(output, overwrite=True) as folder:
            (folder / "config.json").write_text("newer")
        assert content(output.parent) == {"out": "", "out/config.json": "newer"}


def test_an_empty_folder_that_is_filled_meanwhile_stays(output: Path) -> None:
    output.mkdir()
    with pytest.raises(OutputExistsError, match="not what it was when the job began"), staged(output) as folder:  # noqa: PT012
        (folder / "config.json").write_text("new")
        (output / "thesis.tex").write_text("mine")
    assert content(output) == {"thesis.tex": "mine"}


def test_another_folder_that_moves_in_at_the_last_moment_stays(
    output: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at it and the exchange."""
    if how != "exchange":
        pytest.skip("it takes the exchange, which is undone")
    from qtoolkit.stream import staging

    make_model(output)
    exchange = staging.exchange
    swapped = False

    def swap(first: Path, second: Path) -> bool:
        nonlocal swapped
        if not swapped:
            output.rename(output.with_name("away"))
            make_model(output, "theirs")
            swapped = True
        return exchange(first, second)

    monkeypatch.setattr(staging, "exchange", swap)
    with pytest.raises(OutputExistsError, match="the result is whole in"), staged(output, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
    assert content(output) == {"config.json": "theirs"}
    assert content(output.with_name("out.partial") / "result") == {"config.json": "new"}


def test_an_output_that_was_removed_meanwhile_is_made(output: Path) -> None:
    make_model(output)
    with staged(output, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
        shutil.rmtree(output)
    assert content(output.parent) == {"out": "", "out/config.json": "new"}


@pytest.mark.parametrize("what", ["the folder", "the folder with its marker", "the marker", "the result"])
def test_a_folder_that_is_removed_under_a_job_fails_it(output: Path, what: str) -> None:
    make_model(output)
    partial = output.with_name("out.partial")
    with (  # noqa: PT012
        pytest.raises(OutputError, match=r"was removed (or replaced )?while .* call that again$"),
        staged(output, overwrite=True) as folder,
    ):
        (folder / "config.json").write_text("new")
        if what == "the marker":
            (partial / MARKER).unlink()
        elif what == "the result":
            shutil.rmtree(folder)
            # As transformers does before it writes a file.
            folder.mkdir()
        else:
            shutil.rmtree(partial)
            folder.mkdir(parents=True)
            (folder / "mine").write_text("mine")
            if what == "the folder with its marker":
                (partial / MARKER).write_text(f"qtoolkit {'0' * 32}\n")
    assert content(output) == {"config.json": "old"}
    # What somebody put in its place is not ours.
    assert what not in {"the folder", "the folder with its marker"} or (folder / "mine").read_text() == "mine"


def test_links_in_an_unfinished_job_are_not_followed(output: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(output):  # noqa: PT012
        journal_of(output).mkdir()
        (journal_of(output) / "block-00000.json").write_text("{}")
        raise KeyboardInterrupt
    mine = output.with_name("mine")
    mine.mkdir()
    (mine / "block-00000.json").write_text("mine")
    partial = output.with_name("out.partial")
    shutil.rmtree(partial / "journal")
    for name in ("journal", "model", "replaced", "more"):
        (partial / name).symlink_to(mine)
    before = content(mine)
    put_back(output)
    with staged(output, resume=True) as folder:
        (folder / "config.json").write_text("new")
    assert content(mine) == before
    assert content(output) == {"config.json": "new"} and not partial.exists()


def test_the_marker_is_there_from_the_beginning_and_not_in_the_result(output: Path) -> None:
    partial = output.with_name("out.partial")
    with staged(output) as folder:
        marker = marker_of(partial)
        assert marker is not None and len(marker) == 32
        (folder / "config.json").write_text("new")
        assert sorted(entry.name for entry in output.parent.iterdir()) == ["out.partial"]
    assert content(output.parent) == {"out": "", "out/config.json": "new"}


@pytest.mark.parametrize("name", ["", ".", "..", "/", "no\0name", "x" * 300, "org/name"])
def test_whatever_is_named_can_be_looked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    put_back(Path(name))
    assert not any(tmp_path.iterdir())


def unfinished(output: Path, marker: str = "0" * 32) -> Path:
    """The partial folder of a job that was killed between its two renames: the old model lies in it."""
    partial = output.with_name("out.partial")
    partial.mkdir(mode=0o700)
    (partial / MARKER).write_text(f"qtoolkit {marker}\n")
    for name in ("model", "replaced"):
        make_model(partial / name, name)
    return partial


def refused(output: Path, told: str) -> None:
    """Nothing that names the output takes over, changes or gives back what lies in its partial folder."""
    before = content(output.parent)
    put_back(output)
    with pytest.raises(OutputExistsError, match=told):
        check_output(output, overwrite=True)
    with pytest.raises(OutputExistsError, match=told), staged(output, overwrite=True, resume=True):
        pass
    assert content(output.parent) == before


posix = pytest.mark.skipif(os.name == "nt", reason="Windows has other users and permissions")


@posix
@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="root alone gives a folder away")
def test_a_folder_of_another_user_is_refused_by_name_and_stays(output: Path) -> None:
    partial = unfinished(output)
    os.chown(partial, 65534, 65534)
    refused(output, rf"{partial} belongs to another user \(id 65534, and this one is 0\).*name another output$")
    os.chown(partial, 0, 0)
    put_back(output)
    assert content(output) == {"config.json": "replaced"}


@posix
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_may_write_in_is_refused_by_name_and_stays(output: Path, mode: int) -> None:
    partial = unfinished(output)
    partial.chmod(mode)
    refused(output, rf"{partial} can be written by other users.*`chmod go-w` it and call that again$")
    partial.chmod(0o755)
    put_back(output)
    assert content(output) == {"config.json": "replaced"}


@posix
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o000], ids=oct)
def test_a_result_has_the_permissions_of_any_folder(output: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with staged(output) as folder:
            (folder / "config.json").write_text("new")
            assert stat.S_IMODE(output.with_name("out.partial").stat().st_mode) == 0o700
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (output, output / "config.json")]
    assert modes == [0o777 & ~umask, 0o666 & ~umask]


@posix
def test_all_files_of_a_job_have_the_permissions_of_any_file(tiny_llama: Path, output: Path) -> None:
    before = os.umask(0o027)
    try:
        qt.quantize(tiny_llama, "absmax", device="cpu", output=output)
    finally:
        os.umask(before)
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in output.iterdir()}
    assert oct(stat.S_IMODE(output.stat().st_mode)) == oct(0o750)
    assert modes == dict.fromkeys(modes, oct(0o640))


@posix
def test_another_name_of_a_marker_is_left_alone(output: Path) -> None:
    """A hard link of it elsewhere: it is never written through."""
    partial = unfinished(output)
    elsewhere = output.with_name("mine")
    os.link(partial / MARKER, elsewhere)
    check_output(output, overwrite=True)
    with staged(output, overwrite=True) as folder:
        (folder / "config.json").write_text("new")
    assert elsewhere.read_text() == f"qtoolkit {'0' * 32}\n"
    assert content(output) == {"config.json": "new"} and not partial.exists()


def test_a_user_folder_beside_a_real_job_is_as_it_was(tiny_llama: Path, output: Path) -> None:
    make(output.with_name("out.partial"), "folder")
    before = content(output.parent)
    for verb, options in ((qt.plan, {}), (qt.quantize, {"overwrite": True})):
        with pytest.raises(OutputExistsError, match="does not carry qtoolkit's marker"):
            verb(tiny_llama, "absmax", device="cpu", output=output, **options)
    assert content(output.parent) == before


def test_what_stayed_where_a_job_was_killed_beside_its_folder_goes_and_nothing_else(output: Path) -> None:
    ours, held, others = (output.with_name(f".out-{digit * 8}") for digit in "abc")
    for folder in (ours, held, others):
        folder.mkdir()
    for folder in (ours, held):
        (folder / MARKER).write_text(f"qtoolkit {folder.name[-1] * 32}\n")
    (held / "thesis.tex").write_text("mine")
    with staged(output) as partial:
        (partial / "config.json").write_text("new")
    assert sorted(entry.name for entry in output.parent.iterdir()) == [held.name, others.name, "out"]
