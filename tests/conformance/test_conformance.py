"""What is written stays the same to the byte, and what records say to the number, wherever sums are rounded alike.

`python -m scripts.conformance` compares all cases, and words too.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.cases import CASES, Case
from tests.conformance.results import Results, processor, same_surroundings
from tests.conformance.values import differences, dumped

STORED = json.loads((Path(__file__).parents[1] / "data/conformance/values.json").read_bytes())
# Of what depends on sums of floats, and of other architectures, a few.
_SUMS = ("gptq", "gptq-desc_act", "gptq-rules", "gptq_v2", "absmax-target_bits")
_OTHERS = {(name, config) for name in ("gpt2", "mixtral", "gemma3_text") for config in ("nf4", "absmax-4bit-group")}
CHOSEN = [
    case
    for case in CASES
    if (case.is_told_in_full and (case.config in _SUMS or not case.depends_on_sums))
    or (case.architecture, case.config) in _OTHERS
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    folder = tmp_path_factory.mktemp("conformance")
    with same_surroundings(folder / "cache"):
        yield Results(folder / "results")


def assert_same(results: Results, name: str, *, tolerance: float) -> None:
    found = list(differences(STORED[name], json.loads(dumped(results.values[name])), tolerance=tolerance))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_it_is_written_as_before(case: Case, results: Results) -> None:
    if case.depends_on_sums and processor() != STORED["made on"]:
        pytest.skip("this processor rounds sums of floats otherwise than the one that the results were stored on")
    results.run(case)
    for name in (f"{case.architecture} {case.dtype}", case.name):
        # Floats are those of a few products: versions and threads change their last digits.
        assert_same(results, name, tolerance=0.002)


def test_sizes_of_known_models_are_predicted_as_before(results: Results) -> None:
    results.run_sizes()
    for name in [name for name in results.values if " on " in name]:
        assert_same(results, name, tolerance=1e-12)


def test_a_difference_is_named() -> None:
    layers = {"LayerPlan 2": ["name", "bits"], "lines": [["up_proj", 4], ["down_proj", 4]]}
    others = {**layers, "lines": [["up_proj", 4], ["down_proj", 8]]}
    old = {"llama nf4": {"files": {"config.json": "1", "a": "2"}, "sizes": [1, 2.0], "layers": layers}}
    new = {"llama nf4": {"files": {"config.json": "3", "b": "2"}, "sizes": [1, 2.1], "layers": others}}
    assert list(differences(old, new)) == [
        'llama nf4 > files > config.json: "1" became "3"',
        "llama nf4 > files > a: missing",
        "llama nf4 > files > b: new",
        "llama nf4 > sizes[1]: 2.0 became 2.1",
        "llama nf4 > layers > lines > 1 down_proj > bits: 4 became 8",
    ]
