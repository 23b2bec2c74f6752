"""Products in float32 of what a processor multiplies slowly: against float64, and one rounding away from it."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from torch.utils._python_dispatch import TorchDispatchMode

from qtoolkit.tensor import float32_products as products
from qtoolkit.tensor.float32_products import Float32Products, own_products
from qtoolkit.tensor.processor import product_dtype

pytestmark = pytest.mark.once

# One rounding of the result.
TOLERANCE = {torch.bfloat16: 2**-8, torch.float16: 2**-11}

torch.manual_seed(0)
X, WEIGHT, BIAS = torch.randn(2, 5, 48), torch.randn(40, 48), torch.randn(40)
ROWS, MATRICES = X.view(10, 48), torch.randn(2, 48, 7)

PRODUCTS: dict[str, Callable[[Callable[[torch.Tensor], torch.Tensor]], torch.Tensor]] = {
    "linear": lambda to: F.linear(to(X), to(WEIGHT)),
    "linear with bias": lambda to: F.linear(to(X), to(WEIGHT), to(BIAS)),
    "linear, one token": lambda to: F.linear(to(X[:1, :1]), to(WEIGHT), bias=to(BIAS)),
    "linear, no token": lambda to: F.linear(to(X[:, :0]), to(WEIGHT)),
    "module": lambda to: (
        torch.nn.utils.skip_init(torch.nn.Linear, 48, 40)
        .to(to(X).dtype)
        .requires_grad_(requires_grad=False)
        .apply(lambda layer: (layer.weight.copy_(to(WEIGHT)), layer.bias.copy_(to(BIAS))))(to(X))
    ),
    "@": lambda to: to(X) @ to(MATRICES),
    "matmul": lambda to: torch.matmul(to(X), to(MATRICES)),
    "bmm": lambda to: torch.bmm(to(X), to(MATRICES)),
    "mm": lambda to: torch.mm(to(ROWS), to(WEIGHT).T),
    "Tensor.mm": lambda to: to(ROWS).mm(to(WEIGHT).T),
    "addmm": lambda to: torch.addmm(to(BIAS), to(ROWS), to(WEIGHT).T),
    "baddbmm": lambda to: torch.baddbmm(to(torch.ones(2, 5, 7)), to(X), to(MATRICES), beta=0.5, alpha=2.0),
    "einsum": lambda to: torch.einsum("bti,bio->bto", to(X), to(MATRICES)),
    "conv1d": lambda to: F.conv1d(to(X), to(WEIGHT[:6, :15].reshape(6, 5, 3)), to(BIAS[:6]), padding=2),
    "attention": lambda to: F.scaled_dot_product_attention(to(X)[:, None], to(X)[:, None], to(X)[:, None]),
    "masked attention": lambda to: F.scaled_dot_product_attention(
        to(X)[:, None], to(X)[:, None], to(X)[:, None], attn_mask=to(torch.ones(5, 5).tril().log())
    ),
}
slow_types = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
every_product = pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)


@every_product
@slow_types
def test_a_product_is_the_exact_one_rounded_once(
    product: Callable[..., torch.Tensor], dtype: torch.dtype, older_processor: None
) -> None:
    expected = product(lambda x: x.to(dtype).double())
    with Float32Products():
        y = product(lambda x: x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=TOLERANCE[dtype], atol=1e-5)


@every_product
@slow_types
def test_no_product_of_several_tokens_is_left_in_the_slow_type(
    product: Callable[..., torch.Tensor], dtype: torch.dtype, older_processor: None
) -> None:
    with Float32Products(), _Products() as seen:
        product(lambda x: x.to(dtype))
    assert {kind for kind, tokens in seen.kinds if tokens > 1} <= {torch.float32}


@pytest.mark.parametrize(
    ("threads", "tokens", "transposed", "kind"),
    [
        (1, 3, False, torch.bfloat16),
        (1, 4, False, torch.float32),
        (1, 1, True, torch.float32),
        (2, 8, False, torch.bfloat16),
        (2, 9, False, torch.float32),
    ],
)
def test_few_tokens_are_left_to_torch_with_the_rows_of_a_weight(
    threads: int,
    tokens: int,
    transposed: bool,
    kind: torch.dtype,
    older_processor: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    weight = WEIGHT.bfloat16().T.contiguous().T if transposed else WEIGHT.bfloat16()
    with Float32Products(), _Products() as seen:
        y = F.linear(ROWS[:tokens].bfloat16(), weight)
    assert {dtype for dtype, _ in seen.kinds} == {kind}
    torch.testing.assert_close(
        y.double(), F.linear(ROWS[:tokens].bfloat16().double(), weight.double()), rtol=2**-7, atol=1e-2
    )


def test_a_product_in_the_slow_type_is_seen() -> None:
    with _Products() as seen:
        F.linear(X.bfloat16(), WEIGHT.bfloat16())
    assert seen.kinds == {(torch.bfloat16, 10)}


@every_product
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_other_types_are_multiplied_as_ever(
    product: Callable[..., torch.Tensor], dtype: torch.dtype, older_processor: None
) -> None:
    with Float32Products():
        y = product(lambda x: x.to(dtype))
    assert torch.equal(y, product(lambda x: x.to(dtype)))


@every_product
def test_a_newer_processor_multiplies_bfloat16_as_ever(
    product: Callable[..., torch.Tensor], newer_processor: None
) -> None:
    with Float32Products():
        y = product(lambda x: x.bfloat16())
    assert torch.equal(y, product(lambda x: x.bfloat16()))


@slow_types
def test_gradients_are_those_of_the_exact_product(
    dtype: torch.dtype, older_processor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of 7 rows: 5 whole ones and a rest.
    monkeypatch.setattr(products, "_BLOCK_WEIGHTS", 7 * 48)
    x, weight, bias = (value.to(dtype).requires_grad_() for value in (X, WEIGHT, BIAS))
    exact_x, exact_weight, exact_bias = (value.detach().double().requires_grad_() for value in (x, weight, bias))
    grad = torch.randn(2, 5, 40).to(dtype)
    with Float32Products():
        F.linear(x, weight, bias).backward(grad)
    F.linear(exact_x, exact_weight, exact_bias).backward(grad.double())
    for found, expected in ((x, exact_x), (weight, exact_weight), (bias, exact_bias)):
        assert found.grad is not None and expected.grad is not None
        torch.testing.assert_close(found.grad.double(), expected.grad, rtol=TOLERANCE[dtype], atol=1e-5)


def test_experts_are_multiplied_one_by_one(older_processor: None) -> None:
    ends = torch.tensor([3, 3, 10], dtype=torch.int32)
    experts = torch.randn(3, 48, 8).bfloat16()
    expected = torch.cat(
        [ROWS[:3].bfloat16().double() @ experts[0].double(), ROWS[3:].bfloat16().double() @ experts[2].double()]
    )
    with Float32Products(), _Products() as seen:
        y = F.grouped_mm(ROWS.bfloat16(), experts, offs=ends)
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-5)
    assert {kind for kind, _ in seen.kinds} == {torch.float32}


def test_a_weight_is_not_whole_in_float32(older_processor: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_BLOCK_WEIGHTS", 7 * 48)
    x, weight = X.bfloat16(), WEIGHT.bfloat16()
    with Float32Products(), _Products() as seen:
        F.linear(x, weight)
    assert 7 * 48 <= seen.widest < WEIGHT.numel()


@pytest.mark.parametrize(("trained", "shapes"), [(0, {(40, 48)}), (1, {(10, 48)})], ids=["inputs", "weight"])
def test_no_more_is_kept_for_gradients_than_they_need(
    trained: int, shapes: set[tuple[int, ...]], older_processor: None
) -> None:
    values, kept = [ROWS.bfloat16(), WEIGHT.bfloat16()], set()
    values[trained].requires_grad_()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.add(tuple(tensor.shape))
        return tensor

    with Float32Products(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        F.linear(*values).sum().backward()
    assert kept == shapes
    assert values[trained].grad is not None


def test_gradients_of_gradients_are_those_of_the_exact_product(older_processor: None) -> None:
    found = []
    for to in (torch.Tensor.bfloat16, lambda value: value.bfloat16().double()):
        x, weight = (to(value).requires_grad_() for value in (ROWS, WEIGHT))
        with Float32Products():
            loss = F.linear(x, weight).square().sum()
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        grad.sum().backward()
        found.append(weight.grad.double())
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 2**-7


@pytest.mark.parametrize(
    "run",
    [
        lambda x, weight: torch.func.grad(lambda rows: F.linear(rows, weight).sum())(x),
        lambda x, weight: torch.vmap(lambda rows: F.linear(rows, weight))(x),
        lambda x, weight: F.linear(x, weight, weight[0, :1]),
    ],
    ids=["torch.func.grad", "torch.vmap", "one bias for all"],
)
def test_what_torch_takes_is_taken(
    run: Callable[..., torch.Tensor], older_processor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_BLOCK_WEIGHTS", 7 * 48)
    x, weight = X.bfloat16(), WEIGHT.bfloat16()
    with Float32Products():
        y = run(x, weight)
    assert torch.equal(y, run(x, weight))


@pytest.mark.parametrize(
    ("x", "bias"), [(X[0, 0, 0].bfloat16(), None), (X.bfloat16(), BIAS)], ids=["no dimension", "another type"]
)
def test_what_torch_refuses_is_refused_in_its_words(
    x: torch.Tensor, bias: torch.Tensor | None, older_processor: None
) -> None:
    with pytest.raises(RuntimeError) as expected:
        F.linear(x, WEIGHT.bfloat16(), bias)
    with Float32Products(), pytest.raises(RuntimeError) as found:
        F.linear(x, WEIGHT.bfloat16(), bias)
    assert str(found.value) == str(expected.value)


def test_what_is_written_into_a_given_tensor_is_left_to_torch(older_processor: None) -> None:
    out = torch.empty(10, 40, dtype=torch.bfloat16)
    with Float32Products():
        torch.mm(ROWS.bfloat16(), WEIGHT.bfloat16().T, out=out)
    torch.testing.assert_close(
        out.double(), ROWS.bfloat16().double() @ WEIGHT.bfloat16().double().T, rtol=2**-7, atol=1e-2
    )


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        (torch.bfloat16, "cpu", torch.float32),
        (torch.float16, "cpu", torch.float32),
        (torch.float64, "cpu", torch.float64),
        (torch.bfloat16, "cuda:0", torch.bfloat16),
        (torch.float16, "cuda", torch.float16),
    ],
    ids=str,
)
def test_the_type_to_multiply_in(dtype: torch.dtype, device: str, expected: torch.dtype, older_processor: None) -> None:
    assert product_dtype(dtype, device) == expected


class _Products(TorchDispatchMode):
    """Sees the products that reach torch's kernels: their types and rows, and the largest tensor of float32."""

    _KERNELS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_dot_product", "_grouped_mm")

    def __init__(self) -> None:
        super().__init__()
        self.kinds: set[tuple[torch.dtype, int]] = set()
        self.widest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__.startswith(self._KERNELS):
            x = args[1] if func.overloadpacket.__name__ in ("addmm", "baddbmm") else args[0]
            self.kinds.add((x.dtype, x.numel() // x.shape[-1]))
        for value in (result, *args):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
                self.widest = max(self.widest, value.numel())
        return result


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "within another mode"])
def test_layers_with_products_of_their_own_are_not_seen(alone: bool, older_processor: None) -> None:
    seen: list[object] = []

    class Watching(Float32Products):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs)

    with nullcontext() if alone else torch.device("cpu"), Watching():
        with own_products():
            torch.ones(2) + 1
        assert bool(seen) != alone
        torch.ones(2) + 1
        assert seen
