"""Models built by several threads at once: each in its own type, and torch's default type is left as it was."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from qtoolkit.models.building import using_transformers
from tests.sample_models import config_of


def test_threads_take_turns() -> None:
    from transformers import AutoModelForCausalLM, PreTrainedModel

    # What transformers replaces while it builds a model.
    replaced = (PreTrainedModel.tie_weights, PreTrainedModel.init_weights)
    config, start = config_of("7b"), threading.Barrier(2)

    def build(dtype: torch.dtype) -> set[torch.dtype]:
        start.wait()
        found = set()
        for _ in range(5):
            with using_transformers(), torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, dtype=dtype)
            found |= {parameter.dtype for parameter in model.parameters()}
        return found

    with ThreadPoolExecutor(2) as pool:
        types = (torch.bfloat16, torch.float16)
        assert list(pool.map(build, types)) == [{dtype} for dtype in types]
    assert torch.get_default_dtype() == torch.float32
    assert (PreTrainedModel.tie_weights, PreTrainedModel.init_weights) == replaced


def test_one_thread_may_build_while_it_builds() -> None:
    with using_transformers(), using_transformers():
        pass


@pytest.fixture(autouse=True)
def _default_dtype() -> object:
    yield
    torch.set_default_dtype(torch.float32)
