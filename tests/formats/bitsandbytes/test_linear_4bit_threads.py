"""bitsandbytes' 4-bit layers run in one thread while another saves, copies or moves them: no output changes."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from qtoolkit.formats.bitsandbytes import keep_exact
from tests.kernels import running
from tests.kernels.running import beside_another

pytestmark = pytest.mark.slow

bnb = pytest.importorskip("bitsandbytes")
FORWARDS = 60


@pytest.fixture(params=["packed on this CPU", "never packed"])
def packs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether bitsandbytes packs weights, as on a CPU with AVX512-BF16, or leaves them, as on another."""
    wanted = request.param == "packed on this CPU"
    if wanted and not bnb.nn.modules.has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16")
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: wanted)
    return wanted


def layers_of(quant_type: str, *, double_quant: bool, storage: torch.dtype = torch.uint8) -> nn.Sequential:
    """Two layers as transformers makes them, that have not run yet."""
    torch.manual_seed(0)
    layers = [
        bnb.nn.Linear4bit(
            128,
            128,
            compute_dtype=torch.bfloat16,
            compress_statistics=double_quant,
            quant_type=quant_type,
            quant_storage=storage,
        ).to("cpu")
        for _ in range(2)
    ]
    model = nn.Sequential(*layers).eval()
    keep_exact(model)
    return model


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Codes that are stored as bfloat16 may be NaN there, which equals nothing."""
    return one.dtype == other.dtype and torch.equal(
        one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    )


def unpickled(model: nn.Sequential) -> nn.Sequential:
    return pickle.loads(pickle.dumps(model))  # type: ignore[no-any-return]  # noqa: S301


ACTS = running.ACTS | {
    "moving": lambda model, folder: model.to("cpu"),
    "reading weights": lambda model, folder: [layer.weight for layer in model],
}


@pytest.mark.parametrize("double_quant", [True, False], ids=["double quantization", "scales as they are"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("act", ACTS)
def test_no_output_changes_meanwhile(
    act: str, quant_type: str, double_quant: bool, packs: bool, tmp_path: Path
) -> None:
    model = layers_of(quant_type, double_quant=double_quant)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(1, 128).bfloat16()
    with torch.no_grad():
        expected = model(x)
        assert all(
            beside_another(lambda: ACTS[act](model, tmp_path), lambda: torch.equal(model(x), expected), times=FORWARDS)
        )
    after = load_file(tmp_path / "model.safetensors") if act == "saving" else model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_first_products_of_two_threads_are_right(quant_type: str, packs: bool) -> None:
    model = layers_of(quant_type, double_quant=True)
    copies = [copy.deepcopy(model) for _ in range(FORWARDS)]
    x = torch.randn(1, 128).bfloat16()
    expected = model(x.requires_grad_(requires_grad=False))
    theirs, ours = iter(copies), iter(copies)
    assert all(beside_another(lambda: next(theirs)(x), lambda: torch.equal(next(ours)(x), expected), times=FORWARDS))


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, unpickled, lambda model: copy.deepcopy(unpickled(model))],
    ids=["copy", "pickle", "copy of a pickled one"],
)
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16], ids=str)
def test_copies_of_a_layer_that_ran_are_stored_alike(
    again: Callable[[Any], Any], storage: torch.dtype, packs: bool
) -> None:
    model = layers_of("nf4", double_quant=True, storage=storage)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(3, 128).bfloat16()
    y = model(x)
    copied = again(model)
    assert torch.equal(copied(x), y)
    for one in (model, copied):
        after = one.state_dict()
        assert list(after) == list(before)
        assert all(same_bytes(after[name], before[name]) for name in before)
