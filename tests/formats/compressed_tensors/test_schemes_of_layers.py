"""Which scheme a layer has: by its name, by the first expression that matches, by its class; ignored ones have none."""

import re

import pytest

from qtoolkit.formats.compressed_tensors.schemes import Scheme, Schemes

LAYERS = [
    (("model.layers.0.q_proj",), ("Linear", "Module")),
    (("model.layers.10.mlp.down_proj", "layers.10.mlp.down_proj"), ("Linear", "Module")),
    (("model.layers.10.mlp.experts.0.w1",), ("Linear", "Module")),
    (("model.embed_tokens",), ("Embedding", "Module")),
    (("lm_head", "model.lm_head"), ("Linear", "Module")),
    (("model.conv",), ("Conv1d", "Module")),
]
TARGETS: dict[str, tuple[tuple[str, ...], ...]] = {
    "a class": (("Linear",),),
    "a class before another": (("Module",), ("Linear",)),
    "names before expressions": (("Linear", "re:.*q_proj"), ("model.layers.0.q_proj",)),
    "expressions in order of text": (("re:model.*down",), ("re:layers.*",), ("re:.*experts.*",)),
    "the other name": (("layers.10.mlp.down_proj", "re:model.lm"), ("re:lm_h",)),
    "the last of two targets": (("Linear", "lm_head"), ("lm_head",)),
    "no expression": (("re:(", "re:.*w1$"), ("Embedding",)),
    "none": (("model.layers.1.q_proj",),),
}
IGNORED: tuple[tuple[str, ...], ...] = (
    (),
    ("lm_head",),
    ("re:.*experts.*", "re:[a", "model.conv"),
    ("Embedding", "layers.10.mlp.down_proj"),
)


def found(expression: str, names: tuple[str, ...]) -> bool:
    try:
        return any(re.match(expression.removeprefix("re:"), name) for name in names)
    except re.error:
        return False


def one_by_one(schemes: Schemes, names: tuple[str, ...], classes: tuple[str, ...]) -> Scheme | None:
    """Each target compared with each name."""
    for target in schemes.ignore:
        if target in (*names, *classes) or (target.startswith("re:") and found(target, names)):
            return None
    last = {target: scheme for scheme in schemes.schemes for target in scheme.targets}
    by_name = [target for target in sorted(last) if target in names]
    by_expression = [target for target in sorted(last) if target.startswith("re:") and found(target, names)]
    by_class = [target for target in sorted(last) if target in classes]
    return next((last[target] for target in (*by_name, *by_expression, *by_class)), None)


@pytest.mark.parametrize("ignored", IGNORED, ids=str)
@pytest.mark.parametrize("case", TARGETS)
def test_a_layer_has_the_scheme_that_a_look_at_each_target_finds(case: str, ignored: tuple[str, ...]) -> None:
    schemes = Schemes(tuple(Scheme(bits, 32, True, own) for bits, own in enumerate(TARGETS[case], 2)), ignored)
    for names, classes in LAYERS:
        assert schemes.of(names, classes) == one_by_one(schemes, names, classes)


@pytest.mark.parametrize(
    ("targets", "is_of_embeddings"),
    [
        ((("Linear",), ("model.embed_tokens",)), True),
        ((("Linear",), ("model.embed_tokens", "lm_head")), True),
        ((("model.embed_tokens",),), False),
        ((("model.embed_tokens",), ("Linear",)), False),
        ((("Linear",), ("re:.*embed.*",)), False),
        ((("Linear",), ()), False),
    ],
    ids=str,
)
def test_the_last_scheme_is_that_of_embeddings_where_it_names_layers(
    targets: tuple[tuple[str, ...], ...], is_of_embeddings: bool
) -> None:
    made = tuple(Scheme(4, 32, True, own) for own in targets)
    assert Schemes(made, ()).embeddings == (made[-1] if is_of_embeddings else None)
