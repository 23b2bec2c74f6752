"""Whoever reads or moves a 4-bit layer's weight after an evaluation gets it as it is stored, not as a CPU packs it."""

import weakref
from typing import Any

import pytest
import torch
from torch import nn

from qtoolkit.formats.bitsandbytes import keep_exact

bnb = pytest.importorskip("bitsandbytes")
peft = pytest.importorskip("peft")


class Model(nn.Module):
    """One layer of NF4, which peft takes for a model that transformers loaded in 4 bits."""

    is_loaded_in_4bit = True

    def __init__(self, *, evaluated: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.proj = bnb.nn.Linear4bit(128, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4").to("cpu")
        keep_exact(self.eval())
        if evaluated:
            with torch.no_grad():
                self(torch.randn(3, 128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)


def adapted(model: Model, **options: Any) -> Any:
    torch.manual_seed(1)
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["proj"], **options))


@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit linear")
def test_peft_merges_an_adapter_into_the_same_codes() -> None:
    models = [
        adapted(Model(evaluated=evaluated), init_lora_weights=False).merge_and_unload() for evaluated in (False, True)
    ]
    plain, after = (model.state_dict() for model in models)
    assert plain.keys() == after.keys()
    assert all(torch.equal(after[name], plain[name]) for name in plain)


def test_dora_begins_with_the_same_norms() -> None:
    plain, after = (
        adapted(Model(evaluated=evaluated), use_dora=True).proj.lora_magnitude_vector["default"].weight
        for evaluated in (False, True)
    )
    assert torch.equal(after, plain)


def test_what_is_moved_is_the_stored_weight() -> None:
    seen: list[Any] = []
    for evaluated in (False, True):
        # As `to("cuda")` does, which needs a GPU.
        Model(evaluated=evaluated)._apply(lambda tensor: seen.append(tensor) or tensor)
    plain, after = seen
    assert torch.equal(after, plain)
    assert vars(after.quant_state).keys() == vars(plain.quant_state).keys()


def test_training_without_gradients_of_inputs_computes_the_same() -> None:
    x = torch.randn(3, 128)
    plain, after = (Model(evaluated=evaluated).train()(x) for evaluated in (False, True))
    assert torch.equal(after, plain)


def test_training_keeps_no_packed_weight() -> None:
    model = Model(evaluated=True)
    packed = weakref.ref(model.proj._parameters["weight"])
    model.train()(torch.randn(3, 128))
    assert packed() is None or packed() is model.proj._parameters["weight"]
