"""After a power failure at any moment, what stands at the output is the old or the new model, whole."""

import random
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.partial import put_back
from tests.stream.power_jobs import CONFIG, JOBS
from tests.stream.power_loss import Call, Disk, State, possible, read_tree, record, write_tree

pytestmark = pytest.mark.slow

JOURNALED = {"first_save", "resume"}


class Recording(NamedTuple):
    root: Path
    calls: list[Call]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    root = tmp_path_factory.mktemp("power").resolve() / "root"
    return Recording(root, record(root.parent, root, "tests.stream.power_jobs"))


def replay(recording: Recording, name: str) -> tuple[Disk, list[Call]]:
    """The disk as it was when a job began, all of it synced, and the calls from there on."""
    root, disk = str(recording.root / name), Disk()
    for index, call in enumerate(recording.calls):
        begins = call.name.startswith("mkdir") and call.paths()[0] == f"{root}/.begin"
        disk.apply(call, root)
        if begins:
            disk.settle()
            return disk, recording.calls[index + 1 :]
    raise AssertionError(name)


def describe(tree: State | None, new: State) -> str:
    """What is wrong with an output, in words."""
    if tree is None:
        return "it is not there"
    return ", ".join(f"{name}: {len(tree.get(name) or b'')} of {len(new[name] or b'')} bytes" for name in new)


@pytest.mark.parametrize("name", JOBS)
def test_what_stands_there_is_whole_after_a_power_failure_at_any_moment(
    recording: Recording, name: str, tmp_path: Path
) -> None:
    root = str(recording.root / name)
    disk, calls = replay(recording, name)
    old, new = disk.tree("out"), read_tree(recording.root / name / "out")
    assert old != new
    draw, back = random.Random(0), set()  # noqa: S311
    journal: dict[str, bytes | None] = {}

    def check(state: Disk) -> None:
        tree = state.tree("out")
        if name == "receipt" and tree is not None:
            # One that was not renamed any more is no part of the model.
            tree = {file: data for file, data in tree.items() if not file.startswith(".qtoolkit.json.")}
        if tree is None and old is not None:
            # Where no exchange is, the next call that names the output puts it back.
            key = frozenset((state.tree("") or {}).items())
            if key not in back:
                write_tree(dict(state.tree("") or {}), tmp_path / str(len(back)))
                put_back(tmp_path / str(len(back)) / "out")
                assert read_tree(tmp_path / str(len(back)) / "out") in (old, new)
                back.add(key)
            return
        assert tree in (old, new), describe(tree, new)
        kept = state.tree("out.partial/journal") or {}
        assert tree == new or journal.items() <= kept.items(), f"the journal lost {set(journal) - set(kept)}"

    for call in calls:
        if disk.apply(call, root):
            for state in possible(disk, draw):
                check(state)
        elif name in JOURNALED:
            # Without all that may be missing: this much is promised.
            surely = disk.after(
                {item: b"" for item in disk.pending() if isinstance(item, int)},
                {id(item) for item in disk.pending() if not isinstance(item, int)},
            )
            journal |= {name: data for name, data in (surely.tree("out.partial/journal") or {}).items() if data}

    # The recording is complete, and once the call has returned the new model stays.
    assert disk.tree("out") == new
    assert all(state.tree("out") == new for state in possible(disk, draw))
    assert name not in JOURNALED or len(journal) >= 5
    assert (name == "overwrite_by_renames") == bool(back)


def test_after_a_power_failure_the_same_call_makes_the_same_model(recording: Recording, tmp_path: Path) -> None:
    root, draw = str(recording.root / "first_save"), random.Random(1)  # noqa: S311
    disk, calls = replay(recording, "first_save")
    found = [state for call in calls if disk.apply(call, root) for state in [draw.choice([*possible(disk, draw)])]]
    unfinished = [tree for state in found if "out" not in (tree := state.tree("") or {})]
    whole = load_file(recording.root / "first_save" / "out" / "model.safetensors")
    for number, tree in enumerate(draw.sample(unfinished, 3)):
        write_tree(tree, tmp_path / str(number))
        qt.quantize(recording.root / "base", CONFIG, output=tmp_path / str(number) / "out", device="cpu")
        again = load_file(tmp_path / str(number) / "out" / "model.safetensors")
        assert again.keys() == whole.keys() and all(again[key].equal(whole[key]) for key in whole)
