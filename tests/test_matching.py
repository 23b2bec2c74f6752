"""Regular expressions of somebody's config match as `re.match` does, and never take for ever."""

import re

import pytest

from qtoolkit.errors import CheckpointError
from qtoolkit.formats.compressed_tensors.schemes import Scheme, Schemes
from qtoolkit.formats.gptq.misread import DynamicOptions
from qtoolkit.matching import matches

NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "lm_head", "")
ENDLESS = r"(?:.|[a-z._]|\w)*[!?]"


@pytest.mark.parametrize(
    "pattern", [r".*\.q_proj", r"model\.layers\.[0-9]\.", "lm_head$", "", r".*mlp.(up|gate)_proj", "q_proj"]
)
def test_it_matches_as_pythons_own(pattern: str) -> None:
    assert [matches(pattern, name) for name in NAMES] == [re.match(pattern, name) is not None for name in NAMES]


@pytest.mark.parametrize("pattern", ["(", "[a", "*"])
def test_what_is_none_is_refused_as_by_python(pattern: str) -> None:
    with pytest.raises(re.error):
        matches(pattern, "lm_head")


@pytest.mark.parametrize(
    "read",
    [
        lambda: matches(ENDLESS, NAMES[0]),
        lambda: DynamicOptions({f"+:{ENDLESS}": {"bits": 8}}).of(NAMES[0]),
        lambda: Schemes((Scheme(4, 32, True, ("Linear",)),), (f"re:{ENDLESS}",)).of((NAMES[0],), ("Linear",)),
    ],
    ids=["alone", "dynamic of GPTQ", "ignore of compressed-tensors"],
)
def test_one_that_takes_for_ever_is_refused(read: object) -> None:
    with pytest.raises(CheckpointError, match=r"^the config names layers by .* takes over 0\.5 s for 'model\.layers"):
        read()  # type: ignore[operator]
