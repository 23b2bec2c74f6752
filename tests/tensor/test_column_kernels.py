"""Triton's kernels for columns, run by its interpreter, choose what the formulas say, column after column."""

import pytest
import torch

from qtoolkit.methods.gptq.refining import _changes, _changes_by_kernel
from qtoolkit.methods.gptq.refining import _kernel_agrees as changes_agree
from qtoolkit.methods.gptq.solver import _Columns, _Grid
from qtoolkit.methods.gptq.solver import _kernel_agrees as rounding_agrees
from qtoolkit.tensor.qparams import QParams
from tests.interpreting_triton import skip_unless

pytestmark = pytest.mark.once
skip_unless(interpreted=True)

every_size = pytest.mark.parametrize(("block", "outputs"), [(1, 1), (24, 70), (64, 33)])


@every_size
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_columns_are_rounded_as_by_the_formula(bits: int, block: int, outputs: int) -> None:
    """In float64: column k is the level next to w_k + sum_{j>k} e_j L_jk, and e_k what it leaves of w_k."""
    torch.manual_seed(bits * block)
    weight = torch.randn(block, outputs)
    lower = (0.3 * torch.randn(block, block)).tril(-1).fill_diagonal_(1)
    groups = torch.arange(block).flip(0) // 8
    # Of both signs, with zero points that differ.
    scale = torch.randn(groups.max() + 1, outputs).sign() * (0.5 + torch.rand(groups.max() + 1, outputs)) / 2**bits
    zero_point = torch.randint(1, 2**bits, scale.shape).float()
    targets, error = weight.double(), weight.double()
    expected = torch.empty(block, outputs, dtype=torch.float64)
    for k in range(block - 1, -1, -1):
        s, z = scale[groups[k]].double(), zero_point[groups[k]].double()
        targets[k] += (error[k + 1 :] * lower[k + 1 :, k, None]).sum(0)
        expected[k] = (targets[k] / s).round().clamp(-z, 2**bits - 1 - z)
        error[k] -= expected[k] * s
        targets[k] -= expected[k] * s
    columns = _Columns(weight.clone(), weight.clone(), lower, groups)
    levels = columns.rounded_by_kernel(_Grid.of(QParams(scale, zero_point, bits)))
    assert torch.equal(levels.double(), expected)
    torch.testing.assert_close(columns.error.double(), error, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(columns.targets.double(), targets, rtol=1e-4, atol=1e-4)


@every_size
def test_changes_are_those_of_torch(block: int, outputs: int) -> None:
    torch.manual_seed(block)
    wanted, of_others = 2 * torch.randn(block, outputs), 0.2 * torch.randn(block, block)
    least, most = -torch.randint(0, 4, wanted.shape).float(), torch.randint(0, 4, wanted.shape).float()
    expected = _changes(wanted.clone(), of_others, least, most)
    changes = _changes_by_kernel(wanted, of_others, least, most)
    assert torch.equal(changes, expected)
    assert changes.any() or block == 1


def test_ties_go_to_the_even_level() -> None:
    halves = torch.tensor([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]])
    changes = _changes_by_kernel(halves, torch.zeros(1, 1), torch.full_like(halves, -9), torch.full_like(halves, 9))
    assert changes.tolist() == [[-2, -2, 0, 0, 2, 2]]


def test_what_asks_a_device_agrees() -> None:
    assert rounding_agrees(torch.device("cpu"))
    assert changes_agree(torch.device("cpu"))
