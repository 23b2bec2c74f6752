"""What lies in a folder beside regular files is named in one row, never opened, and nothing is loaded or published."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.errors import ModelNotFoundError, VerificationError
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.verifier import check_files
from qtoolkit.records import Check
from tests.publishing.checks import checks_of

# What hangs, hangs for ever.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

WEIGHTS = "model.safetensors"
Plant = Callable[[Path], object]


def instead(name: str, plant: Plant) -> Plant:
    """Something in the place of a file."""

    def both(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        plant(folder / name)

    return both


def listen(path: Path) -> None:
    # Bound by a short name: that of a socket has at most 108 letters.
    here = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


def link_out(path: Path) -> None:
    target = path.parent.parent / "private"
    target.write_text("mine")
    path.symlink_to(target)


def link_to_folder(path: Path) -> None:
    other = path.parent.parent / "other"
    other.mkdir()
    (other / "private").write_text("mine")
    path.symlink_to(other)


def not_utf8(path: Path) -> None:
    Path(os.fsdecode(os.fsencode(path) + b"\xe9.dat")).write_text("x")


# What it is -> how it comes there, and what its row says.
ODD: dict[str, tuple[Plant, str]] = {
    "a pipe instead of the weights": (instead(WEIGHTS, os.mkfifo), f"{WEIGHTS} is a named pipe"),
    "a pipe instead of the config": (instead("config.json", os.mkfifo), "config.json is a named pipe"),
    "a pipe instead of the receipt": (instead("qtoolkit.json", os.mkfifo), "qtoolkit.json is a named pipe"),
    "a pipe instead of the index": (
        instead("model.safetensors.index.json", os.mkfifo),
        "model.safetensors.index.json is a named pipe",
    ),
    "a pipe instead of the card": (instead("README.md", os.mkfifo), "README.md is a named pipe"),
    "a pipe in a folder": (
        lambda folder: [(folder / "more").mkdir(), os.mkfifo(folder / "more" / "x")],
        "more/x is a named pipe",
    ),
    "a socket": (instead("notes.dat", listen), "notes.dat is a socket"),
    "a device": (instead("notes.dat", lambda path: path.symlink_to("/dev/zero")), "notes.dat is a device"),
    "a link that dangles": (
        instead("notes.dat", lambda path: path.symlink_to("gone")),
        "notes.dat is a link that leads nowhere",
    ),
    "a link in a circle": (
        instead("notes.dat", lambda path: path.symlink_to("notes.dat")),
        "notes.dat is a link that leads nowhere",
    ),
    "a link to a folder elsewhere": (instead("more", link_to_folder), "more is a link to a folder"),
    "a link to its own folder": (instead("more", lambda path: path.symlink_to(".")), "more is a link to a folder"),
    "a link to a file elsewhere": (instead("LICENSE", link_out), "LICENSE is a link out of the folder"),
    "a card elsewhere": (instead("README.md", link_out), "README.md is a link out of the folder"),
    "a folder of the weights' name": (instead(WEIGHTS, Path.mkdir), f"{WEIGHTS} is a folder"),
    "a name that is not UTF-8": (
        instead("caf", not_utf8),
        "caf\\udce9.dat has a name that not every system can write or show",
    ),
    "a name of two lines": (
        instead("a\nb", Path.touch),
        "a\\nb has a name that not every system can write or show",
    ),
}


@pytest.mark.parametrize(("plant", "told"), ODD.values(), ids=ODD)
def test_it_is_one_row_and_nothing_is_loaded(made: dict[str, Path], tmp_path: Path, plant: Plant, told: str) -> None:
    folder = shutil.copytree(made["absmax"], tmp_path / "absmax")
    plant(folder)
    verification = qt.verify(folder)
    checks = {check.name: check for check in verification.checks}
    assert checks["regular files"] == Check(
        "regular files", False, told, "put the file itself in its place, or remove it"
    )
    assert checks["loads in transformers"].note.startswith("not loaded, since these checks failed: regular files")
    # It can be printed anywhere.
    str(verification).encode()


def test_what_a_link_leads_to_is_not_published(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["absmax"], tmp_path / "absmax")
    link_out(folder / "LICENSE")
    with pytest.raises(VerificationError, match="regular files: LICENSE is a link out of the folder"):
        qt.publish(folder, "me/x", dry_run=True)


def test_what_may_not_be_read_is_told(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(made["absmax"], tmp_path / "absmax")
    # Root may read everything, whatever its permissions say.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("tokenizer.json"))
    check = checks_of(folder, running=False)["regular files"]
    assert check.value == "tokenizer.json cannot be read: its permissions do not allow it"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has such a file")
def test_what_breaks_off_is_a_row_too(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "copy")
    # A regular file whose first bytes cannot be read.
    (folder / "notes.dat").symlink_to("/proc/self/mem")
    checks = {check.name: check for check in qt.verify(folder).checks}
    assert checks["no pickles"].passed is False
    assert checks["no pickles"].value == "not possible: [Errno 5] Input/output error"


def test_links_that_the_receipt_vouches_for_are_told(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["absmax"], tmp_path / "absmax")
    shutil.move(folder / WEIGHTS, tmp_path / "weights")
    (folder / WEIGHTS).symlink_to(tmp_path / "weights")
    checks = {check.name: check for check in check_files(open_artifact(folder))}
    assert all(check.passed for check in checks.values())
    assert checks["regular files"].value == f"1 files are links out of the folder: {WEIGHTS}"
    # Where they lead is nobody's business: the row may stand in a card.
    assert "weights" not in str(checks["regular files"]).replace(WEIGHTS, "").lower().replace("weight", "")
    (folder / "qtoolkit.json").unlink()
    assert next(iter(check_files(open_artifact(folder)))).passed is None


def test_in_the_hub_cache_links_are_what_files_are(made: dict[str, Path], tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--me--x" / "snapshots" / ("a" * 40), tmp_path / "models--me--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(made["absmax"].iterdir()):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (snapshot / "README.md").symlink_to("../../blobs/0")
    assert "regular files" not in checks_of(snapshot, running=False)


def test_a_base_with_a_pipe_is_refused(made: dict[str, Path], base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "tiny-llama")
    instead("tokenizer.json", os.mkfifo)(folder)
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json is a named pipe: put the file itself in its place"):
        qt.verify(made["absmax"], base=folder)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", 5, b"x", "x\0y", None], ids=repr)
@pytest.mark.parametrize("argument", ["path", "base"])
def test_a_name_that_no_folder_has(made: dict[str, Path], path: object, argument: str) -> None:
    if argument == "base" and path is None:
        pytest.skip("no base is named then")
    with pytest.raises(qt.QToolkitError):
        qt.verify(**{"path": made["absmax"], argument: path})  # type: ignore[arg-type]


def test_folders_in_folders_may_be_deep(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "copy")
    place = folder
    try:
        # More of them than Python calls functions from one another.
        for _ in range(1100):
            place /= "a"
            place.mkdir()
        os.mkfifo(place / "x")
        told = next(iter(check_files(open_artifact(folder))))
        assert told.passed is False and told.value.endswith("is a named pipe")
    finally:
        # Python's own removal goes into them by recursion.
        subprocess.run(["/bin/rm", "-rf", str(folder)], check=True)
