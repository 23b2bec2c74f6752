"""transformers, the package compressed-tensors and peers do with folders of ours what the reader contract says."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.contract_check import check_readers, stored_in
from qtoolkit.readers import readers_of, reading_of
from tests.formats.gptq.files import Recipe, write_checkpoint
from tests.methods.gptq.jobs import gptq
from tests.sample_models import plain_logits, random_model

pytest.importorskip("compressed_tensors")
TOKENS = torch.arange(2, 34).reshape(1, 32)
# Text that the model writes itself.
WRITTEN: dict[str, Any] = {"calibration": "self", "num_samples": 4, "seq_len": 32, "format": "compressed-tensors"}
READ = """
import sys; sys.modules["qtoolkit"] = None
import json, torch, transformers
from safetensors.torch import load_file
answers = {}
for folder in sys.argv[1:]:
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        with torch.no_grad():
            logits = model(torch.arange(2, 34).reshape(1, 32)).logits.float()
        expected = load_file(folder + "/expected")["logits"]
        answers[folder] = float((logits - expected).norm() / expected.norm())
    except Exception as error:
        answers[folder] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""


def change(folder: Path, **changes: Any) -> None:
    """Give keys of the quantization config other values; None removes a key."""
    file = folder / "config.json"
    values = json.loads(file.read_text())
    kept = values["quantization_config"] | changes
    values["quantization_config"] = {key: value for key, value in kept.items() if value is not None}
    file.write_text(json.dumps(values))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Folders by what is in them, each with what plain transformers computes from it, or the error that it raises."""
    root = tmp_path_factory.mktemp("folders")
    made: dict[str, dict[str, Any]] = {"three": {"bits": 3}, "asym": {"sym": False}, "embeddings": {"embeddings": 8}}
    made["mixed"] = {"rules": {"*.q_proj": {"bits": 8}}}
    for name, options in made.items():
        config = gptq(**WRITTEN, **options)
        result = qt.quantize(random_model("llama_tied"), config, device="cpu", output=root / name)
        save_file({"logits": plain_logits(result.model, TOKENS).float().contiguous()}, root / name / "expected")
    shutil.copytree(root / "asym", root / "packed zero points")
    change(root / "packed zero points", run_compressed=None)
    shutil.copytree(root / "embeddings", root / "expanded embeddings")
    change(root / "expanded embeddings", run_compressed=False)
    write_checkpoint(Recipe(), root / "others")
    shutil.copytree(root / "others" / "gptq", root / "gptq")
    shutil.rmtree(root / "others")
    folders = sorted(map(str, root.iterdir()))
    done = subprocess.run([sys.executable, "-c", READ, *folders], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {Path(folder).name: (Path(folder), answer) for folder, answer in found.items()}


@pytest.mark.parametrize(
    ("name", "loads"),
    [
        ("three", True),
        ("mixed", True),
        ("asym", True),
        ("packed zero points", False),
        ("embeddings", False),
        ("expanded embeddings", False),
    ],
)
def test_transformers_reads_what_the_contract_says(answers: Any, name: str, loads: bool) -> None:
    """Within 2 % of our own logits; the table was made with 5.23, and 5.15 reads packed zero points too."""
    folder, answer = answers[name]
    stored = stored_in(open_artifact(folder))
    assert stored is not None
    assert reading_of("transformers", readers_of(stored)).loads == loads
    if name == "packed zero points" and transformers.__version__.startswith("5.15."):
        loads = True
    assert (isinstance(answer, float) and answer < 0.02) == loads, answer


def test_transformers_asks_for_what_gptq_needs(answers: Any) -> None:
    folder, answer = answers["gptq"]
    stored = stored_in(open_artifact(folder))
    assert stored is not None
    assert "optimum" in reading_of("transformers", readers_of(stored)).needs
    assert "optimum" in answer


@pytest.mark.parametrize("bits", range(2, 9))
def test_transformers_takes_the_widths_of_gptq_in_the_table(bits: int) -> None:
    from qtoolkit.readers import Stored

    loads = reading_of("transformers", readers_of(Stored(format="gptq", bits=(bits,)))).loads
    try:
        transformers.GPTQConfig(bits=bits)
    except ValueError:
        assert not loads
    else:
        assert loads


def test_the_package_reads_our_config_as_the_contract_does(answers: Any) -> None:
    """Its own class, which vLLM and SGLang use too."""
    from compressed_tensors.quantization import QuantizationConfig

    for name in ("three", "mixed", "asym", "embeddings"):
        values = json.loads((answers[name][0] / "config.json").read_text())["quantization_config"]
        theirs = QuantizationConfig.model_validate(values)
        schemes = [group.weights for group in theirs.config_groups.values()]
        stored = stored_in(open_artifact(answers[name][0]))
        assert stored is not None
        in_blocks = {scheme.num_bits for scheme in schemes[: stored.widths]}
        assert (tuple(sorted(in_blocks)), stored.sym) == (stored.bits, schemes[0].symmetric)
        assert {scheme.group_size for scheme in schemes[:1]} == set(stored.group_sizes)


def test_a_mixed_unit_is_seen_in_the_tensors_of_a_folder(answers: Any) -> None:
    """3 bits as compressed-tensors are loaded by vLLM; q in 8 and k in 4 bits are not, as its config class refuses."""
    from compressed_tensors.quantization import QuantizationConfig

    mixed = answers["mixed"][0]
    check = check_readers(open_artifact(mixed), "vllm")
    assert (
        check.passed is False and "layers of self_attn.qkv_proj, which it joins, are not quantized alike" in check.note
    )
    assert "quantize q_proj, k_proj and v_proj alike" in check.note
    values = json.loads((mixed / "config.json").read_text())["quantization_config"]
    groups = QuantizationConfig.model_validate(values).config_groups.values()
    # What vLLM's `_match_fused_layer` finds: the members of one matrix under several schemes.
    assert len({group.weights.num_bits for group in groups}) == 2
    three = stored_in(open_artifact(answers["three"][0]))
    assert three is not None and reading_of("vllm", readers_of(three)).loads


def test_tensors_tell_the_bits_of_a_gptq_folder(answers: Any) -> None:
    """Whatever its config says of them."""
    folder = answers["gptq"][0]
    stored = stored_in(open_artifact(folder))
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith(".qweight"))
    inputs = len(tensors[name.replace("qweight", "g_idx")])
    assert stored is not None and stored.bits == (32 * len(tensors[name]) // inputs,)
