"""What is measured of a model, against its formula; and the process that measures it knows nothing of this one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from qtoolkit.publishing import behaviour
from qtoolkit.publishing.process import NoAnswerError, run_behaviour
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

IDS = [5, 9, 100, 3, 77, 31]


def test_the_loss_is_the_mean_of_each_token_after_those_before_it() -> None:
    model = random_model("llama", torch.float32)
    expected = 0.0
    for place in range(1, len(IDS)):
        with torch.no_grad():
            logits = model(torch.tensor([IDS[:place]])).logits[0, -1].double()
        expected -= float(logits.log_softmax(-1)[IDS[place]]) / (len(IDS) - 1)
    assert behaviour.probe(model, IDS)["loss"] == pytest.approx(expected, abs=1e-5)


def test_the_largest_logits_of_the_last_positions_are_kept() -> None:
    model = random_model("llama", torch.float32)
    found = behaviour.probe(model, IDS)
    with torch.no_grad():
        logits = model(torch.tensor([IDS])).logits[0, -2:]
    for row, ids, values, std in zip(logits, found["top_ids"], found["top_logits"], found["std"], strict=True):
        order = sorted(range(len(row)), key=lambda token: -row[token].item())[:32]
        assert ids == order
        assert values == pytest.approx([row[token].item() for token in order])
        mean = sum(row.tolist()) / len(row)
        assert std == pytest.approx((sum((value - mean) ** 2 for value in row.tolist()) / (len(row) - 1)) ** 0.5)
    assert behaviour.logits_at(model, IDS, found["top_ids"])["logits"] == found["top_logits"]


def test_logits_that_are_not_finite_are_refused() -> None:
    model = random_model("llama", torch.float32)
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        behaviour.probe(model, IDS)


def test_without_a_tokenizer_ids_are_spread_over_the_vocabulary() -> None:
    ids = behaviour.probe_tokens(None, 256)
    assert len(set(ids)) > 20 and min(ids) >= 0 and max(ids) < 256


def test_a_tokenizer_is_told_by_its_ids(tiny_llama: Path) -> None:
    first, second = (AutoTokenizer.from_pretrained(tiny_llama) for _ in range(2))
    assert behaviour.describe_tokenizer(first) == behaviour.describe_tokenizer(second)
    second.add_tokens(["letter to"])
    found, changed = behaviour.describe_tokenizer(first), behaviour.describe_tokenizer(second)
    assert [key for key in found if found[key] != changed[key]] == ["token_ids"]


def test_off_and_absent_are_the_same_in_a_generation_config() -> None:
    described = behaviour.describe_generation(
        GenerationConfig(do_sample=True, temperature=0.5, output_attentions=False)
    )
    assert described is not None
    assert {"do_sample": True, "temperature": 0.5}.items() <= described.items()
    assert "output_attentions" not in described


def request(folder: Path, **changes: object) -> dict[str, object]:
    asked: dict[str, object] = {
        "folder": str(folder),
        "base": None,
        "with_qtoolkit": False,
        "device": "cpu",
        "auto_class": "AutoModelForCausalLM",
    }
    return asked | {"token_ids": IDS, "top_ids": [[1, 2]]} | changes


def test_a_process_that_hangs_is_ended(made: dict[str, Path]) -> None:
    with pytest.raises(NoAnswerError, match=r"^not done after 0 s$"):
        run_behaviour(request(made["nf4"]), time_limit=0.1)


def test_a_process_that_takes_too_much_memory_is_ended(made: dict[str, Path]) -> None:
    # Python alone takes more.
    with pytest.raises(NoAnswerError, match=r"^it took more than 5\.0 MB of memory, and was ended$"):
        run_behaviour(request(made["nf4"]), memory_limit=5_000_000)


def test_a_process_that_dies_says_why(made: dict[str, Path]) -> None:
    with pytest.raises(NoAnswerError, match=r"^the process ended with 1 \(KeyError: 'folder'\)$"):
        run_behaviour({"with_qtoolkit": False})


def test_the_file_imports_nothing_of_qtoolkit() -> None:
    code = f"import runpy, sys; runpy.run_path({behaviour.__file__!r}); assert 'qtoolkit' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
