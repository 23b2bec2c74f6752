"""Families of models, each by a method whose mechanism no other one has here, are as docs/coverage.json says."""

import pytest

from scripts.coverage import STORED, read
from scripts.coverage_cells import Cell, cells_of
from scripts.coverage_table import worse

pytestmark = pytest.mark.slow

# Type -> methods; `make coverage` runs all of them.
SUBSET = {
    # Blocks of attention and a gated MLP.
    "mistral": ("gptq", "absmax", "int8"),
    # Experts, in layers of their own in the file.
    "mixtral": ("gptq",),
    # Experts, in one tensor in the file too, transposed and with biases.
    "gpt_oss": ("gptq",),
}


@pytest.mark.parametrize("model_type", SUBSET)
def test_no_cell_is_worse_than_it_is_stored(model_type: str) -> None:
    stored = read(STORED)[model_type]
    cells = dict(cells_of(model_type, SUBSET[model_type]))
    assert cells.keys() <= stored.keys()
    assert list(worse(model_type, stored, cells)) == []


def test_a_worse_verdict_and_a_smaller_share_are_told() -> None:
    before = {"gptq": Cell("done", share=100.0), "absmax": Cell("done", share=95.0), "nf4": Cell("crash")}
    after = {"gptq": Cell("refused"), "absmax": Cell("done", share=94.0), "nf4": Cell("done", share=10.0)}
    told = [line.partition(":")[0] for line in worse("llama", before, after)]
    assert told == ["llama, gptq", "llama, absmax"]
    assert list(worse("llama", after, after)) == []
