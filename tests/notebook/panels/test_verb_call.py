"""The call that a panel shows is the call that it makes."""

import pytest

import qtoolkit as qt
from qtoolkit.notebook.panels.verb_call import VerbCall

CALLS = {
    "qt.plan('org/model', qt.NF4())": VerbCall("plan", ("org/model", qt.NF4())),
    "q = qt.quantize('a \\'b\\'', qt.AbsMax(bits=4), output='out')": VerbCall(
        "quantize", ("a 'b'", qt.AbsMax(bits=4)), {"output": "out"}, into="q"
    ),
    "qt.compare('m', [None, 'nf4', qt.GPTQ(bits=3)], num_tokens=64)": VerbCall(
        "compare", ("m", [None, "nf4", qt.GPTQ(bits=3)]), {"num_tokens": 64}
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=lambda call: call.verb)
def test_what_is_shown_is_python_that_makes_the_same_arguments(call: VerbCall) -> None:
    seen = {}

    class Recorder:
        def __getattr__(self, name: str) -> object:
            if name[0].isupper():
                return getattr(qt, name)
            return lambda *arguments, **options: seen.update(verb=name, arguments=arguments, options=options)

    exec(str(call), {"qt": Recorder()})  # noqa: S102
    assert seen == {"verb": call.verb, "arguments": call.arguments, "options": dict(call.options)}


def test_only_what_is_not_as_by_default_is_shown() -> None:
    assert str(VerbCall("plan", ("m", qt.GPTQ(bits=4, sym=False)))) == "qt.plan('m', qt.GPTQ(sym=False))"


def test_it_is_made_with_what_is_not_shown() -> None:
    found = VerbCall("find_models", ("no such model",), {"hub": False}).run(limit=1)
    assert type(found).__name__ == "FoundModels"
