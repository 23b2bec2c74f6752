"""Whatever befalls the files of a journal: the job is told in one line or goes on, with results the same to the bit."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.errors import QToolkitError
from qtoolkit.methods.gptq.layer_groups import GPTQBlocks
from qtoolkit.stream.groups import GroupInputs
from qtoolkit.stream.journal import Journal, JournalLocation
from qtoolkit.stream.sealed import sealed

RECIPE = {"method": "gptq", "bits": 4, "layers": "f" * 64}
TOKENS = torch.arange(12).view(3, 4)
NAMES, INPUTS, OUTPUTS, BLOCKS = ("q", "down"), 64, 32, 3
METHOD = GPTQBlocks(qt.GPTQ(group_size=32, rules={"*.down": {"bits": 8}}), "cpu", torch.bfloat16)

Block = tuple[dict[str, torch.Tensor], dict[str, Any]]


def shapes_of(index: int) -> dict[str, tuple[int, ...]]:
    return {f"model.layers.{index}.{name}": (OUTPUTS, INPUTS) for name in NAMES}


def block_of(index: int) -> Block:
    """What the job makes of a block."""
    torch.manual_seed(index)
    tensors: dict[str, torch.Tensor] = {}
    facts: dict[str, Any] = {}
    for name, shape in shapes_of(index).items():
        group = METHOD.start([name], INPUTS)
        group.add(GroupInputs(torch.randn(80, INPUTS)))
        result = group.finish({name: torch.randn(shape)})[name]
        tensors |= {f"{name}.{key}": tensor for key, tensor in result.tensors.items()}
        facts[name] = result.facts
    return tensors, facts


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    return [block_of(index) for index in range(BLOCKS)]


@pytest.fixture(scope="module")
def whole(blocks: list[Block], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a job that was stopped at its end."""
    folder = tmp_path_factory.mktemp("whole")
    journal = Journal(JournalLocation(folder), RECIPE)
    journal.write_tokens(TOKENS)
    for index, block in enumerate(blocks):
        journal.write(index, *block)
    return folder


def are_samples(tokens: Any) -> bool:
    return tuple(tokens.shape) == (3, 4) and tokens.dtype == torch.int64 and bool((tokens[...] < 12).all())


def run(folder: Path, blocks: list[Block]) -> Iterator[tuple[Block, bool]]:
    """The job as `quantize_blocks` goes through a journal: each block's result, and whether it was kept."""
    journal = Journal(JournalLocation(folder), RECIPE)
    if journal.read_tokens(are_samples) is None:
        journal.write_tokens(TOKENS)
    for index, block in enumerate(blocks):
        found = journal.read(index, partial(METHOD.fits, shapes_of(index)))
        done = journal.write(index, *block) if found is None else found
        yield ({name: tensor[...] for name, tensor in done.tensors.items()}, dict(done.facts)), found is not None


def same(left: Block, right: Block) -> bool:
    tensors, others = left[0], right[0]
    return left[1] == right[1] and {name: value.numpy().tobytes() for name, value in tensors.items()} == {
        name: value.numpy().tobytes() for name, value in others.items()
    }


DEEP = "[" * 100_000
ODD: list[Any] = [
    *(None, True, -1, 10**400, 1.5, float("nan"), "", "x" * 300, [], {}, [[]], {"a": {"b": 1}}, "block-00001"),
]
FILES = [
    "recipe.json",
    "tokens.json",
    "tokens.safetensors",
    *(f"block-0000{index}.{end}" for index in range(BLOCKS) for end in ("json", "safetensors")),
]
RECORDS = [name for name in FILES if name.endswith(".json")]


def damage_bytes(folder: Path, draw: Random) -> set[str]:
    """Cut, empty, flip, lose or replace the bytes of a file."""
    name = draw.choice(FILES)
    file = folder / name
    data = file.read_bytes()
    place = draw.randint(0, len(data) - 1)
    how = draw.choice(["cut", "flip", "lose", "deep", "text", "longer"])
    flipped = data[:place] + bytes([data[place] ^ 1 << draw.randint(0, 7)]) + data[place + 1 :]
    texts = {"cut": data[:place], "flip": flipped, "deep": DEEP.encode(), "longer": data + b"\0" * (place + 1)}
    if how == "lose":
        file.unlink()
    else:
        file.write_bytes(texts[how] if how in texts else draw.randbytes(draw.randint(0, 50)))
    return {name}


def damage_record(folder: Path, draw: Random) -> set[str]:
    """Put something odd into a record, or leave something out, with a right seal or without."""
    name = draw.choice(RECORDS)
    values = json.loads((folder / name).read_text())
    seal = values.pop("seal")
    place: Any = values
    while True:
        key = draw.choice(sorted(place))
        if not isinstance(place[key], dict) or not place[key] or draw.random() < 0.5:
            break
        place = place[key]
    value, what = draw(ODD), draw.choice(["replace", "remove", "add"])
    if what == "remove":
        del place[key]
    else:
        place["new" if what == "add" else key] = value
    # Under a right seal, a fact that might be one cannot be told from what the job found.
    resealed = draw.random() < 0.5 and value not in (1.5, 10**400)
    data = sealed(values) if resealed else json.dumps(values | {"seal": seal}).encode()
    (folder / name).write_bytes(data)
    return {name}


def damage_tensors(folder: Path, draw: Random) -> set[str]:
    """Other shapes, types, names or numbers that no number is, under right hashes."""
    index = draw.randint(0, BLOCKS - 1)
    file, record = folder / f"block-0000{index}.safetensors", folder / f"block-0000{index}.json"
    if not (file.is_file() and record.is_file()):
        return set()
    try:
        tensors, values = load_file(file), json.loads(record.read_bytes())
    except Exception:  # noqa: BLE001  # another damage came before, whatever the reader says of it
        return set()
    if not tensors or not isinstance(values, dict):
        return set()
    name = draw.choice(sorted(tensors))
    tensor = tensors.pop(name)
    match draw.choice(["shape", "type", "name", "lose", "add", "number"]):
        case "shape":
            tensors[name] = tensor.repeat(2, *[1] * (tensor.ndim - 1)) if draw.random() < 0.5 else tensor.flatten()[:0]
        case "type":
            tensors[name] = tensor.to(draw.choice([torch.float64, torch.int8, torch.bfloat16]))
        case "name":
            tensors["".join(chr(draw.randint(32, 9999)) for _ in range(draw.randint(0, 9)))] = tensor
        case "add":
            tensors |= {name: tensor, f"model.layers.9.{name}": tensor.clone()}
        case "number":
            scales = next(key for key in (name, *sorted(tensors)) if key.endswith((".scales", ".g_idx")))
            tensors[name] = tensor
            wrong = draw.choice([float("nan"), float("inf")]) if scales.endswith(".scales") else 99
            tensors[scales].view(-1)[0] = wrong
    save_file(tensors, file)
    reseal(file, record)
    return {file.name}


def reseal(file: Path, record: Path) -> None:
    from hashlib import sha256

    values = json.loads(record.read_bytes()) | {"sha256": sha256(file.read_bytes()).hexdigest()}
    record.write_bytes(sealed({key: value for key, value in values.items() if key != "seal"}))


def swap_blocks(folder: Path, draw: Random) -> set[str]:
    """Two blocks with each other's files, both whole."""
    for end in ("json", "safetensors"):
        first, second, third = (folder / f"block-0000{index}.{end}" for index in (0, 1, 7))
        if first.exists() and second.exists():
            first.rename(third)
            second.rename(first)
            third.rename(second)
    return {"block-00000.json", "block-00001.json"}


def mix_jobs(folder: Path, draw: Random) -> set[str]:
    """A block that another job made of the same layers."""
    index = draw.randint(0, BLOCKS - 1)
    with TemporaryDirectory() as other:
        journal = Journal(JournalLocation(Path(other)), RECIPE | {"bits": 3})
        journal.write(index, *block_of(index + 10))
        for file in journal.files(index):
            shutil.copy(file, folder)
    return {f"block-0000{index}.json"}


# The first three are those that find most.
DAMAGES = [*2 * (damage_bytes, damage_record, damage_tensors), swap_blocks, mix_jobs]


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**64), damages=st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=2))
def test_a_damaged_journal_goes_on_or_is_told(seed: int, damages: list[Any], blocks: list[Block], whole: Path) -> None:
    draw = Random(seed)  # noqa: S311  # damage, no secret
    with TemporaryDirectory() as place:
        folder = Path(place) / "out.partial" / "journal"
        shutil.copytree(whole, folder)
        touched = set().union(*(apply(damage, folder, draw) for damage in damages))
        try:
            results = list(run(folder, blocks))
        except QToolkitError as error:
            assert "\n" not in str(error)  # noqa: PT017  # most examples raise nothing
            # Only a whole recipe that is another one is refused.
            assert "recipe.json" in touched
            return
        for index, ((result, kept), expected) in enumerate(zip(results, blocks, strict=True)):
            assert same(result, expected)
            assert kept or any(name.startswith(f"block-0000{index}") for name in touched)
        assert all(kept for _, kept in run(folder, blocks))


def apply(damage: Any, folder: Path, draw: Random) -> set[str]:
    """One damage; what another one has made unreadable before is left as it is."""
    try:
        touched: set[str] = damage(folder, draw)
    except (OSError, ValueError, RecursionError, KeyError, AttributeError, TypeError, IndexError):
        return set(FILES)
    return touched
