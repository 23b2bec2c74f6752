"""Results on disk: safetensors that other readers read, written without a second copy in memory."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from qtoolkit.checkpoints.safetensors import DTYPES, read_tensors
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.records import ProgressEvent
from qtoolkit.stream.writing import save_model, write_weights
from tests.sample_models import ARCHITECTURES, random_model

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENS = torch.arange(3, 35).reshape(2, 16)


def ignore(_: ProgressEvent) -> None:
    pass


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert raw_bytes(found[name]) == raw_bytes(tensor)


def every_type() -> dict[str, torch.Tensor]:
    """Each type as a matrix, a single number and nothing, of odd sizes, the narrow types first."""
    types = sorted(DTYPES.values(), key=lambda dtype: dtype.itemsize)
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for dtype in types:
        for shape in [(3, 5), (), (0, 2)]:
            size = torch.empty(shape, dtype=dtype).nbytes
            raw = torch.randint(0, 2, (size,), generator=random, dtype=torch.uint8)  # [bytes]
            tensors[f"{dtype} {list(shape)}"] = raw.view(dtype).reshape(shape)
    return tensors


def shared_and_strided() -> dict[str, torch.Tensor]:
    whole = torch.arange(60.0).reshape(5, 12)
    return {
        "whole": whole,
        "again": whole,
        "row": whole[2],
        "column": whole[:, 3],
        "transposed": whole.T,
        "expanded": torch.ones(1).expand(3, 4),
        "needs grad": torch.nn.Parameter(whole[1:3, ::2]),
        'ünïcode " \\ / \n': torch.ones(2, dtype=torch.int8),
    }


@pytest.mark.parametrize(
    "tensors", [every_type(), shared_and_strided(), {}], ids=["every type", "shared and strided", "none"]
)
def test_what_is_written_is_what_safetensors_reads(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write_weights(tensors, tmp_path, ignore)
    assert [file.name for file in tmp_path.iterdir()] == [SINGLE]
    assert_same(load_file(tmp_path / SINGLE), {name: tensor.detach() for name, tensor in tensors.items()})
    assert_same(
        {name: tensor[...] for name, tensor in read_tensors(tmp_path / SINGLE).items()}, load_file(tmp_path / SINGLE)
    )
    with safe_open(tmp_path / SINGLE, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_data_and_tensors_are_aligned(tmp_path: Path) -> None:
    """The format asks for a header that ends at a multiple of 8 bytes; a reader that maps the file needs the rest."""
    for extra in range(9):
        write_weights(every_type() | {"x" * extra: torch.ones(3, dtype=torch.int8)}, tmp_path, ignore)
        content = (tmp_path / SINGLE).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        assert length % 8 == 0
        assert content[8:9] == b"{"
        for tensor in read_tensors(tmp_path / SINGLE).values():
            assert tensor.start % tensor.dtype.itemsize == 0


def test_shards_are_as_full_as_they_may_be_and_listed_in_an_index(tmp_path: Path) -> None:
    sizes = [40, 60, 1, 99, 100, 250, 30]
    tensors = {f"t{number}": torch.full((size,), number, dtype=torch.uint8) for number, size in enumerate(sizes)}
    events: list[ProgressEvent] = []
    write_weights(tensors, tmp_path, events.append, max_shard_bytes=100)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(sizes)}
    files = [f"model-{number:05}-of-00005.safetensors" for number in range(1, 6)]
    assert {file.name for file in tmp_path.iterdir()} == {INDEX, *files}
    # 40+60, 1+99, 100, 250 alone, 30
    assert [index["weight_map"][name] for name in tensors] == [files[i] for i in (0, 0, 1, 1, 2, 3, 4)]
    found = {file: load_file(tmp_path / file) for file in files}
    assert {name: file for file in files for name in found[file]} == index["weight_map"]
    assert_same({name: tensor for file in files for name, tensor in found[file].items()}, tensors)
    assert [(event.phase, event.done, event.total) for event in events][-1] == ("save", sum(sizes), sum(sizes))
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert {event.detail for event in events} == set(files)


def test_a_type_that_the_format_lacks_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    tensors = {"good": torch.ones(2), "bad": torch.ones(2, dtype=torch.complex128)}
    with pytest.raises(UnsupportedModelError, match=r"bad has the type torch\.complex128: .* BOOL, U8"):
        write_weights(tensors, tmp_path, ignore)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_model_is_read_by_transformers(tmp_path: Path, architecture: str) -> None:
    """Experts are split as they were and tied weights stored once: the files hold what transformers' own would."""
    random_model(architecture).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "reference")
    (tmp_path / "ours").mkdir()
    save_model(model, None, tmp_path / "ours", ignore)
    assert_same(load_file(tmp_path / "ours" / SINGLE), load_file(tmp_path / "reference" / SINGLE))
    for name in ("config.json", "generation_config.json"):
        ours, reference = (json.loads((tmp_path / folder / name).read_text()) for folder in ("ours", "reference"))
        # Ours has the keys of transformers 4 too.
        assert {key: ours.get(key) for key in reference} == reference
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)


def test_the_tokenizer_and_its_chat_template_are_saved(tmp_path: Path, smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    save_model(random_model("llama"), tokenizer, tmp_path, ignore)
    found = AutoTokenizer.from_pretrained(tmp_path)
    assert found("One two")["input_ids"] == tokenizer("One two")["input_ids"]
    assert found.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi!"


def test_a_generation_config_of_the_kind_that_transformers_warns_of_is_saved(tmp_path: Path) -> None:
    """Many published models name a temperature without do_sample; losing a finished job to that would be bad."""
    model = random_model("llama")
    model.generation_config = GenerationConfig(temperature=0.6, top_p=0.9, eos_token_id=7)
    save_model(model, None, tmp_path, ignore)
    values = json.loads((tmp_path / "generation_config.json").read_text())
    assert (values["temperature"], values["top_p"], values["eos_token_id"]) == (0.6, 0.9, 7)
    assert "do_sample" not in values or values["do_sample"] is False


MEASURE = """
import sys, torch
from pathlib import Path
from qtoolkit.measure.peak import measure_peak
from qtoolkit.stream.writing import write_weights

def peak(tensors):
    with measure_peak() as meter:
        write_weights(tensors, Path(sys.argv[1]), lambda event: None)
    return meter.report.peak_rss - meter.report.rss_before

peak({"warm": torch.ones(10)})
plain = {f"t{i}": torch.full((12_500_000,), float(i)) for i in range(4)}
print(peak(plain))
print(peak({**plain, "transposed": plain["t0"].reshape(5_000, 2_500).T}))
"""


@pytest.mark.slow
def test_no_second_copy_is_made_in_memory(tmp_path: Path) -> None:
    """Four tensors of 50 MB take no more; one that is not contiguous is copied on its own."""
    run = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True)
    plain, transposed = map(int, run.stdout.split())
    assert plain < 15_000_000
    assert transposed < 65_000_000
