"""A mixture's job keeps nothing for each number of tokens that an expert gets: its peak follows the largest block.

oneDNN keeps 0.6 MB for each shape of a product in bfloat16. Of 10 blocks of 3.3 MB with 8 experts, in a process of its
own with AVX512-BF16, the peak was 264 MB, and 20 MB more with each further block; in few shapes it is 62 MB.
"""

import pytest
import torch

import qtoolkit as qt
from tests.sample_models import random_model
from tests.tensor.product_shapes import ProductShapes


@pytest.mark.usefixtures("newer_processor")
def test_its_products_have_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qtoolkit.tensor.hessian.bfloat16_is_native", lambda: True)
    monkeypatch.setattr("qtoolkit.tensor.cross_products.bfloat16_is_native", lambda: True)
    model = random_model("mixtral", torch.bfloat16, num_local_experts=8)
    rows = [[(7 * row + 3 * i * i + row * i) % 250 + 3 for i in range(64)] for row in range(8)]
    config = qt.GPTQ(group_size=32, calibration=rows, num_samples=8, seq_len=64, refine=0)
    with ProductShapes() as shapes:
        qt.quantize(model, config, device="cpu")

    assert len(shapes.seen) <= 30
