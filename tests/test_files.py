"""A file that is written whole, or stays what it was."""

from pathlib import Path

import pytest

from qtoolkit.files import user_cache, write_whole


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
