"""A folder whose packed layers a model's class gives first values to: what is told of it is what transformers does."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_compressed_tensors import CompressedTensorsHfQuantizer

import qtoolkit as qt
from qtoolkit.optional import is_installed
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.contract_check import check_readers, stored_in
from qtoolkit.publishing.readers import needs_qtoolkit, reader_of
from scripts.small_models import small_model

pytestmark = pytest.mark.slow
PACKED = qt.AbsMax(bits=4, granularity="group", group_size=32, format="compressed-tensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NanoChat, whose class sets the layers of attention by the size of their weight."""
    output = tmp_path_factory.mktemp("nanochat") / "packed"
    qt.quantize(small_model("nanochat", dtype=torch.bfloat16), PACKED, device="cpu", output=output)
    return output


def test_the_contract_says_that_transformers_alone_does_not_load_it(folder: Path) -> None:
    artifact = open_artifact(folder)
    assert {name.rpartition(".")[2] for name in artifact.given_values} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    check = check_readers(artifact, "transformers")
    assert check.passed is False
    assert check.value.startswith("does not load in transformers 5")
    assert "the model's class sets as it is opened" in check.note
    assert check_readers(artifact, "vllm").passed
    assert reader_of(artifact).description == "once qtoolkit is imported"
    assert artifact.receipt is not None
    assert needs_qtoolkit(artifact.receipt, stored_in(artifact))


@pytest.mark.skipif(not is_installed("compressed_tensors"), reason="without it, transformers has our loader alone")
def test_transformers_does_what_the_contract_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it fails; once qtoolkit is imported, it has the logits of our loader, but for rounding."""
    tokens = torch.arange(8, 40)[None]
    with torch.no_grad():
        wanted = qt.load(folder, device="cpu").model(tokens).logits
        found = AutoModelForCausalLM.from_pretrained(folder)(tokens).logits
    assert (found - wanted).norm() < 0.02 * wanted.norm()
    monkeypatch.setitem(AUTO_QUANTIZER_MAPPING, "compressed-tensors", CompressedTensorsHfQuantizer)
    with pytest.raises(AttributeError, match="has no attribute 'weight'"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_advice_for_transformers_names_no_config_with_such_layers() -> None:
    plan = qt.plan(small_model("nanochat", dtype=torch.bfloat16), PACKED, device="cpu", for_="transformers")
    assert plan.reading is not None
    assert not plan.reading.loads
    assert "sets as it is opened" in " ".join(plan.notes)
    assert plan.advice
    assert not any("compressed-tensors" in advice.change for advice in plan.advice)
