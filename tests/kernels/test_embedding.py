"""Embeddings that hold codes, and output heads that share them."""

import copy
import pickle

import pytest
import torch
from torch import nn

from qtoolkit.formats.compressed_tensors.tensors import PackedTensors
from qtoolkit.kernels import QuantizedEmbedding, TiedHead
from qtoolkit.measure.footprint import memory_footprint

pytestmark = pytest.mark.once
TOKENS, WIDTH = 160, 128
KINDS = [(bits, sym, tied) for bits in (4, 6, 8) for sym in (True, False) for tied in (True, False)]
every_kind = pytest.mark.parametrize(("bits", "sym", "tied"), KINDS)


def embedding_of(bits: int, sym: bool = True, tied: bool = True, tokens: int = TOKENS) -> QuantizedEmbedding:
    torch.manual_seed(0)
    stored = PackedTensors(tokens, WIDTH, bits=bits, group_size=64, symmetric=sym)
    layer = QuantizedEmbedding(stored, dtype=torch.bfloat16, tied=tied)
    codes = torch.randint(2**bits, (WIDTH, tokens), dtype=torch.uint8)
    scale, zero = torch.randn(2, tokens) * 0.01, torch.randint(2**bits, (2, tokens)).float()
    for name, tensor in stored.store(codes, scale, zero, torch.arange(WIDTH) // 64).items():
        getattr(layer, name).copy_(tensor)
    return layer


@every_kind
def test_rows_are_those_of_the_weight(bits: int, sym: bool, tied: bool) -> None:
    layer = embedding_of(bits, sym, tied)
    weight = layer.dequantize()
    ids = torch.tensor([[0, TOKENS - 1, 7], [64, 7, 63]])
    for prepared in (layer, layer.prepare()):
        assert torch.equal(prepared(ids), nn.functional.embedding(ids, weight.bfloat16()))
    assert layer.to(torch.float32)(ids).dtype == torch.float32
    assert torch.equal(layer(ids), nn.functional.embedding(ids, weight))
    assert layer(ids[:0]).shape == (0, 3, WIDTH)


@pytest.mark.parametrize("wrong", [-1, TOKENS])
def test_tokens_that_there_are_not(wrong: int) -> None:
    with pytest.raises(IndexError, match=f"ids must lie between 0 and {TOKENS - 1}"):
        embedding_of(8)(torch.tensor([3, wrong]))


@pytest.mark.parametrize("tokens", [TOKENS, 192, 250])
def test_a_head_multiplies_with_the_same_codes(tokens: int) -> None:
    embedding = embedding_of(8, tokens=tokens).prepare()
    model = nn.ModuleDict({"embedding": embedding, "head": TiedHead(embedding)})
    x = torch.randn(2, 3, WIDTH).bfloat16()
    expected = x.double() @ embedding.dequantize().double().T
    assert (model["head"](x).double() - expected).norm() <= 0.005 * expected.norm()
    # Once in memory, in files, and in copies.
    assert memory_footprint(model) == memory_footprint(embedding)
    assert {name.partition(".")[0] for name in model.state_dict()} == {"embedding"}
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert other["head"]._shared[0] is other["embedding"] is not embedding
        assert torch.equal(other["head"](x), model["head"](x))


def test_a_factor_multiplies_rows_alone() -> None:
    plain = embedding_of(8)
    scaled = QuantizedEmbedding(plain.stored, dtype=torch.bfloat16, tied=True, factor=8.0)
    scaled.load_state_dict(plain.state_dict())
    ids, x = torch.arange(9), torch.randn(2, WIDTH)
    assert torch.equal(scaled(ids), plain(ids) * 8)
    assert torch.equal(scaled.project(x), plain.project(x))
