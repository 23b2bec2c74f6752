"""Options that AutoGPTQ's format has no words for: told by files of ours, off in those of others and with optimum."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.formats.gptq.config import describe
from qtoolkit.methods import config_of_checkpoint
from qtoolkit.methods.gptq.alone import quantized_alone
from qtoolkit.tensor.hessian import Hessian
from tests.methods.gptq.jobs import gptq

ON = {"full_range": True, "refine": 2, "qep_alpha": 0.25, "token_weights": True}


@pytest.mark.parametrize("name", ON)
def test_a_file_tells_them_where_they_are_on(name: str) -> None:
    off = qt.GPTQ(**qt.GPTQ.absent())
    told = describe(replace(off, **{name: ON[name]}), {}, [])
    assert told["meta"].keys() == {"quantizer", name}
    assert config_of_checkpoint(told) == replace(off, **{name: ON[name]})
    assert describe(off, {}, [])["meta"].keys() == {"quantizer"}


@pytest.mark.parametrize("meta", [None, [], "qtoolkit", {"full_range": "yes", "refine": 1.5, "token_weights": 1}])
def test_what_others_write_there_is_left_alone(meta: Any) -> None:
    config = config_of_checkpoint({"quant_method": "gptq", "bits": 4, "group_size": 32, "meta": meta})
    assert {name: getattr(config, name) for name in config.absent()} == config.absent()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_alone_loses_less_with_scales_of_either_sign(bits: int) -> None:
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(bits))
    nothing = Hessian(512, torch.device("cpu"))
    config = qt.GPTQ(bits=bits, group_size=32)
    configs = [replace(config, full_range=full_range) for full_range in (False, True)]
    ((positive, both),) = quantized_alone([weight], nothing, configs)
    assert (both - weight).square().sum() < 0.9 * (positive - weight).square().sum()


def test_optimum_has_them_off_and_the_plan_says_so(tiny_llama: Path) -> None:
    plan = qt.plan(tiny_llama, gptq(engine="optimum"), device="cpu")
    assert {name: plan.settings[name] for name in ON} == {
        "full_range": False,
        "refine": 0,
        "qep_alpha": 0,
        "token_weights": False,
    }
    assert any("optimum does not know full_range, refine" in note for note in plan.notes)


def test_optimum_writes_one_format() -> None:
    with pytest.raises(ConfigError, match=r"optimum writes 'gptq' alone: leave out format, or engine='optimum'"):
        gptq(engine="optimum", format="compressed-tensors")
