"""Values of a config that layers may have of their own."""

import pytest
from transformers import LlamaConfig

from qtoolkit.checkpoints.layer_values import largest

pytestmark = pytest.mark.once


def config(**values: object) -> LlamaConfig:
    return LlamaConfig(num_hidden_layers=3, hidden_size=64, head_dim=16, **values)


def test_a_value_that_all_layers_share_is_read_as_it_is() -> None:
    assert largest(config(), "head_dim") == 16
    assert largest(config(), "no_such_size") is None


def test_of_layers_that_differ_the_largest_counts() -> None:
    differing = config(per_layer_config={1: {"head_dim": 48}, 2: {"head_dim": 8}})
    # transformers reads none of the three.
    with pytest.raises(RuntimeError, match="may vary across layers"):
        _ = differing.head_dim
    assert largest(differing, "head_dim") == 48
    assert largest(differing, "hidden_size") == 64


def test_a_list_has_a_value_for_each_layer() -> None:
    assert largest(config(heads=[4, 32, None]), "heads") == 32
