"""Loaded models on a processor that is slow in their type: fast products, the same weights, nothing left behind."""

import copy
import gc
import inspect
import pickle
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.overrides import _get_current_function_mode_stack  # type: ignore[attr-defined]
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.stream.products import fast_products
from qtoolkit.tensor.float32_products import FEW_TOKENS
from tests.sample_models import ARCHITECTURES, MORE_ARCHITECTURES, random_model

pytestmark = pytest.mark.slow

TOKENS = torch.arange(3, 35).reshape(2, 16)
WEIGHTS = "model.safetensors"
METHODS = {
    "nf4": qt.NF4(),
    "int8": qt.Int8(),
    "absmax": qt.AbsMax(),
    "zero_point": qt.ZeroPoint(bits=4, granularity="group", group_size=32),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_model("llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *MORE_ARCHITECTURES])
def test_no_product_of_a_loaded_model_is_slow(
    tmp_path: Path, architecture: str, dtype: torch.dtype, older_processor: None
) -> None:
    random_model(architecture, dtype).save_pretrained(tmp_path)
    exact = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model = qt.load(tmp_path)
    assert model.dtype == dtype
    with torch.no_grad(), _SlowProducts() as seen:
        logits = model(TOKENS).logits
    assert not seen.kernels
    with torch.no_grad():
        error = (logits.float() - exact(TOKENS).logits).norm() / exact(TOKENS).logits.norm()
    # Activations keep their type: the error is that of its rounding.
    assert float(error) < {torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]


def test_a_slow_product_would_be_seen(folder: Path, newer_processor: None) -> None:
    model = qt.load(folder)
    with torch.no_grad(), _SlowProducts() as seen:
        model(TOKENS)
    assert seen.kernels


@pytest.mark.parametrize("method", METHODS)
def test_no_product_of_a_quantized_model_is_slow(folder: Path, method: str, older_processor: None) -> None:
    model = qt.quantize(folder, METHODS[method]).model
    with torch.no_grad(), _SlowProducts() as seen:
        model(TOKENS)
    assert not seen.kernels


@pytest.mark.parametrize("method", METHODS)
def test_saved_files_are_those_of_any_processor(
    folder: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    written = []
    for processor in ("newer_processor", "older_processor"):
        request.getfixturevalue(processor)
        output = tmp_path / processor
        qt.quantize(folder, METHODS[method], output=output)
        written.append(((output / "config.json").read_bytes(), (output / WEIGHTS).read_bytes()))
    assert written[0] == written[1]


@pytest.mark.parametrize("method", METHODS)
def test_a_quantized_model_is_read_back_with_the_same_values(
    folder: Path, tmp_path: Path, method: str, older_processor: None
) -> None:
    q = qt.quantize(folder, METHODS[method], output=tmp_path / "q")
    again = qt.load(tmp_path / "q")
    with torch.no_grad():
        assert torch.equal(again.model(TOKENS).logits, q.model(TOKENS).logits)
    assert any(
        "multiplied in float32, since this processor is slow in torch.bfloat16: llama.cpp writes text some 3 times"
        in note
        for note in q.report.notes
    )


def test_a_copy_and_a_saved_model_hold_what_was_loaded(folder: Path, tmp_path: Path, older_processor: None) -> None:
    model = qt.load(folder)
    model.save_pretrained(tmp_path / "again")
    saved, stored = load_file(tmp_path / "again" / WEIGHTS), load_file(folder / WEIGHTS)
    assert saved.keys() == stored.keys() and all(torch.equal(saved[name], stored[name]) for name in stored)
    double = copy.deepcopy(model)
    assert double.forward.__self__ is double
    with torch.no_grad():
        assert torch.equal(double(TOKENS).logits, model(TOKENS).logits)


def test_it_is_called_and_generates_as_before(folder: Path, older_processor: None) -> None:
    model, plain = qt.load(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert inspect.signature(model.forward) == inspect.signature(plain.forward)
    options = {"max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones_like(TOKENS)}
    with torch.no_grad(), _SlowProducts() as seen:
        model.generate(TOKENS, **options)
    # Of each of the two texts one token at a time: few enough for torch's own product with a weight.
    assert not seen.kernels


def test_gradients_flow_to_what_is_trained(folder: Path, older_processor: None) -> None:
    model = qt.load(folder).train()
    model(TOKENS, labels=TOKENS).loss.backward()
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    exact(TOKENS, labels=TOKENS).loss.backward()
    for (name, parameter), expected in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert parameter.grad is not None, name
        assert float((parameter.grad.float() - expected.grad).norm() / expected.grad.norm()) < 5e-2, name


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")  # Colab's has no other
@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_gradients_are_the_same_where_blocks_run_again(
    folder: Path, use_reentrant: bool, older_processor: None
) -> None:
    model, again = qt.load(folder).train(), qt.load(folder).train()
    again.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    with _SlowProducts() as seen:
        for each in (model, again):
            each.enable_input_require_grads()
            each(TOKENS, labels=TOKENS, use_cache=False).loss.backward()
    assert not seen.kernels
    for expected, found in zip(model.parameters(), again.parameters(), strict=True):
        assert found.grad is not None
        assert torch.equal(found.grad, expected.grad)


def test_a_model_that_nobody_uses_is_freed_at_once(folder: Path, older_processor: None) -> None:
    model = qt.load(folder)
    with torch.no_grad():
        model(TOKENS)
    assert "forward" in vars(model)
    gc.collect()
    gc.disable()
    try:
        kept = weakref.ref(model)
        del model
        assert kept() is None
    finally:
        gc.enable()


def test_a_pickled_model_multiplies_fast(folder: Path, older_processor: None) -> None:
    model = qt.load(folder)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301  # made here
    expected = model(TOKENS).logits
    del model
    with torch.no_grad(), _SlowProducts() as seen:
        assert torch.equal(again(TOKENS).logits, expected)
    assert not seen.kernels


def test_a_model_is_exported_as_before(folder: Path, older_processor: None) -> None:
    model = qt.load(folder)
    model.config.use_cache = False
    exported = torch.export.export(model, (TOKENS,), strict=False).module()
    with torch.no_grad():
        assert torch.equal(exported(TOKENS).logits, type(model).forward(model, TOKENS).logits)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_forward_that_is_stopped_leaves_no_mode(
    folder: Path, error: type[BaseException], older_processor: None
) -> None:
    model = qt.load(folder)

    def stop(*_: Any) -> None:
        raise error

    model.model.layers[1].register_forward_pre_hook(stop)
    with pytest.raises(error):
        model(TOKENS)
    assert not _get_current_function_mode_stack()


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float32), ("cuda", torch.bfloat16), ("cuda:0", torch.float16)], ids=str
)
def test_what_is_not_slow_is_left_alone(device: str, dtype: torch.dtype, older_processor: None) -> None:
    with fast_products(device, dtype):
        assert not _get_current_function_mode_stack()


def test_a_model_in_float32_is_left_alone(folder: Path, older_processor: None) -> None:
    assert "forward" not in vars(qt.load(folder, dtype="float32"))


class _SlowProducts(TorchDispatchMode):
    """Sees torch's kernels that multiply several rows of bfloat16 or float16."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: set[str] = set()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__  # type: ignore[attr-defined]
        is_product = re.fullmatch(r"mm|bmm|addmm|baddbmm|convolution|_grouped_mm|.*(attention|gemm).*", name)
        tensors = [value for value in args if isinstance(value, torch.Tensor) and value.dim() > 1]
        few = FEW_TOKENS if name in ("mm", "addmm") else 1
        if is_product and tensors[0].dtype.itemsize == 2 and tensors[0].numel() > few * tensors[0].shape[-1]:
            self.kernels.add(name)
        return func(*args, **(kwargs or {}))
