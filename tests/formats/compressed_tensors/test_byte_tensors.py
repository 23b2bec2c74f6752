"""Codes of a byte each: the package compressed-tensors reads the same weights, and layers multiply with them."""

import pytest
import torch

from qtoolkit.formats.compressed_tensors.byte_tensors import ByteTensors
from qtoolkit.kernels import QuantizedLinear, memory_bytes, output_blocks, stored_bytes
from qtoolkit.tensor.float8 import float8_quantize
from qtoolkit.tensor.integer_codes import absmax_quantize

BLOCK = (128, 128)
CASES = {"float": ("float", None), "block": ("float", BLOCK), "int": ("int", None)}
OUT, IN = 256, 384


def weight() -> torch.Tensor:
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(3))
    weight[:, 5] *= 20
    return weight.to(torch.bfloat16)


def stored(case: str) -> tuple[ByteTensors, dict[str, torch.Tensor]]:
    kind, block = CASES[case]
    if kind == "float":
        codes, scale = float8_quantize(weight(), block=block, scale_dtype=torch.bfloat16)
    else:
        codes, scale = absmax_quantize(weight(), 8, scale_dtype=torch.bfloat16)
    how = ByteTensors(OUT, IN, kind=kind, block=block)
    return how, how.store_rows(codes, scale)


def exact(case: str) -> torch.Tensor:
    """The weight in float64, from the stored numbers."""
    how, tensors = stored(case)
    scale = tensors["weight_scale"].double()
    if how.block:
        scale = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
    return tensors["weight"].double() * scale


def layer(case: str) -> QuantizedLinear:
    how, tensors = stored(case)
    built = QuantizedLinear(how, bias=False, dtype=torch.bfloat16)
    built.load_state_dict(tensors)
    return built.prepare()


@pytest.mark.parametrize("case", CASES)
def test_the_package_decompresses_the_same_weight(case: str) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.naive_quantized import NaiveQuantizationCompressor
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    presets = {"float": "FP8_DYNAMIC", "block": "FP8_BLOCK", "int": "W8A8"}
    scheme = preset_name_to_scheme(presets[case], ["Linear"])
    _, tensors = stored(case)
    tensors["weight_scale"] = tensors["weight_scale"].float()
    theirs = NaiveQuantizationCompressor.decompress(tensors, scheme)["weight"]
    assert torch.equal(theirs, layer(case).dequantize())
    assert torch.equal(theirs.double(), exact(case))


@pytest.mark.parametrize("case", CASES)
def test_what_is_stored_has_the_bytes_that_were_planned(case: str) -> None:
    how, tensors = stored(case)
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    assert shapes == how.tensors()
    scales = 6 if how.block else OUT
    assert stored_bytes(how) == memory_bytes(how, device="cpu") == OUT * IN + 2 * scales


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("case", CASES)
def test_a_layer_multiplies_rounded_inputs_with_its_weight(case: str, tokens: int, dtype: torch.dtype) -> None:
    x = torch.randn(tokens, IN, generator=torch.Generator().manual_seed(tokens)).to(dtype)
    how, _ = stored(case)
    # Rounded by the formula, in float64: `test_rounded_inputs` compares levels one by one.
    groups = x.double().view(tokens, -1, 128 if how.block else IN)
    largest = 448 if how.kind == "float" else 127
    scale = groups.abs().amax(-1, keepdim=True) / largest
    levels = (groups / scale).float()
    rounded = levels.to(torch.float8_e4m3fn).double() if how.kind == "float" else levels.round().double()
    expected = (rounded * scale).view(tokens, IN) @ exact(case).T
    y = layer(case)(x)
    assert y.dtype == dtype
    # A few inputs lie between two levels, and the last bits decide.
    allowed = {torch.float32: 0.003, torch.bfloat16: 0.02, torch.float16: 0.006}[dtype]
    assert (y.double() - expected).norm() <= allowed * expected.norm()
    plain = x.double() @ exact(case).T
    assert (plain - expected).norm() > 0.004 * expected.norm()


@pytest.mark.parametrize("case", CASES)
def test_gradients_pass_as_if_inputs_were_not_rounded(case: str) -> None:
    x = torch.randn(3, IN, requires_grad=True)
    layer(case)(x).backward(torch.ones(3, OUT))
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), exact(case).sum(0).expand(3, IN), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("case", CASES)
def test_rows_are_looked_up_one_by_one(case: str) -> None:
    how, tensors = stored(case)
    ids = torch.tensor([255, 0, 130, 0])
    rows = how.decode(tensors).rows_of(ids, torch.float32)
    assert torch.equal(rows.double(), exact(case)[ids])


def test_integers_are_packed_again_as_they_were() -> None:
    how, tensors = stored("int")
    again = how.encode(how.decode(tensors))
    assert all(torch.equal(again[name][...], tensor) for name, tensor in tensors.items())
    codes = how.decode(tensors)
    unsigned = torch.cat([codes.codes(part) for part in output_blocks(codes)], dim=1)
    groups = torch.zeros(IN, dtype=torch.int64)
    same = how.store(unsigned, codes.scale(slice(0, OUT)), torch.full((1, OUT), 128), groups)
    assert all(torch.equal(same[name], tensor) for name, tensor in tensors.items())


def test_float8_is_never_taken_for_integers() -> None:
    how, tensors = stored("float")
    codes = how.decode(tensors)
    assert not codes.centered and codes.rows is None
    with pytest.raises(TypeError, match="no integers"):
        codes.codes(slice(0, OUT))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.5])
@pytest.mark.parametrize("case", CASES)
def test_scales_that_no_weight_has_are_found(case: str, bad: float) -> None:
    how, tensors = stored(case)
    assert how.are_sound(tensors, reordered=False)
    tensors["weight_scale"][-1, -1] = bad
    assert not how.are_sound(tensors, reordered=False)


def test_nan_among_codes_is_found() -> None:
    how, tensors = stored("float")
    tensors["weight"].view(torch.uint8)[4, 5] = 0xFF
    assert how.fault(tensors["weight"], tensors["weight_scale"]) == "weight holds NaN"
