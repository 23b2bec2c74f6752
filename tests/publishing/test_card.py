"""The card: what the Hub reads of it, and that nothing in it is made up or breaks out of its place."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from qtoolkit.errors import ConfigError
from qtoolkit.publishing import read_receipt
from qtoolkit.publishing.card import escaped, make_card
from qtoolkit.records import Check, Receipt, Verification

VERIFICATION = Verification("out", (Check("logits", True, "off by 0"), Check("licence", None, "not known")))
COMMIT = "c" * 40


@pytest.fixture
def receipt(made: dict[str, Path], request: pytest.FixtureRequest) -> Receipt:
    found = read_receipt(made[getattr(request, "param", "nf4")])
    assert found is not None
    return replace(found, source=replace(found.source, name="someone/tiny-llama", commit_hash=COMMIT))


@pytest.mark.parametrize(
    ("receipt", "tags"),
    [
        ("nf4", ["bitsandbytes", "4-bit", "quantized", "qtoolkit"]),
        ("int8", ["bitsandbytes", "8-bit", "quantized", "qtoolkit"]),
        ("gptq", ["gptq", "4-bit", "quantized", "qtoolkit"]),
        ("absmax", ["absmax", "quantized", "qtoolkit"]),
    ],
    indirect=["receipt"],
    ids=["nf4", "int8", "gptq", "absmax"],
)
def test_what_the_hub_reads(receipt: Receipt, tags: list[str]) -> None:
    card = ModelCard(str(make_card(receipt, VERIFICATION, "me/tiny")))
    assert card.data.to_dict() == {
        "base_model": "someone/tiny-llama",
        "base_model_relation": "quantized",
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": tags,
    }


def test_a_person_reads_what_was_done(receipt: Receipt) -> None:
    text = make_card(receipt, VERIFICATION, "me/tiny").text
    assert "# tiny\n" in text
    assert f"[someone/tiny-llama](https://huggingface.co/someone/tiny-llama) (commit `{COMMIT}`)" in text
    call = "qt.NF4(exclude=['lm_head'], double_quant=True, compute_dtype='bfloat16')"
    assert f"qt.quantize('someone/tiny-llama', {call}, output=\"output\", revision='{COMMIT}')" in text
    assert 'from_pretrained("me/tiny", device_map="auto")' in text
    assert "It was not measured." in text
    assert "| logits | passed | off by 0 |" in text and "| licence | not checked | not known |" in text
    assert "- 1 module: excluded by name" in text


def test_its_recipe_is_a_call_that_makes_the_same(receipt: Receipt) -> None:
    text = make_card(receipt, VERIFICATION, "me/tiny").text
    expression = text.split("qt.quantize('someone/tiny-llama', ")[1].split(", output=")[0]
    import qtoolkit as qt

    assert eval(expression, {"qt": qt}).to_dict() == dict(receipt.settings)  # noqa: S307


def test_a_licence_that_is_not_known_is_asked_for(receipt: Receipt) -> None:
    unknown = replace(receipt, license=None)
    with pytest.raises(ConfigError, match="licence of someone/tiny-llama is not known, and none is made up"):
        make_card(unknown, VERIFICATION, "me/tiny")
    assert make_card(unknown, VERIFICATION, "me/tiny", license="mit").data.license == "mit"


def test_another_licence_than_the_bases_is_refused(receipt: Receipt) -> None:
    with pytest.raises(ConfigError, match=r"license='mit', but someone/tiny-llama stands under 'apache-2\.0'"):
        make_card(receipt, VERIFICATION, "me/tiny", license="mit")


def test_a_licence_of_its_own_is_linked(receipt: Receipt) -> None:
    data = make_card(replace(receipt, license="other", gated=True), VERIFICATION, "me/tiny").data
    assert (data.license, data.license_link) == ("other", "https://huggingface.co/someone/tiny-llama")


def test_a_base_that_is_not_on_the_hub_is_not_claimed(receipt: Receipt) -> None:
    local = replace(receipt, source=replace(receipt.source, name="tiny-llama", commit_hash=None))
    data = make_card(local, VERIFICATION, "me/tiny").data.to_dict()
    assert "base_model" not in data and "base_model_relation" not in data


ATTACKS = {
    "script": "<script>alert(1)</script>",
    "link": "[click](javascript:alert(1))",
    "table": "a | b\n| c",
    "heading": "\n# Heading\n---\nlicense: mit\n---",
    "image": "![x](http://evil)",
    "code": "```\n<b>out</b>",
    "template": "{{ 7 * 7 }} {% for x in y %}",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_value_stays_in_its_place(receipt: Receipt, attack: str) -> None:
    planted = replace(
        receipt,
        notes=(attack,),
        hardware=(attack,),
        skipped={attack: 1},
        settings=dict(receipt.settings) | {"exclude": [attack]},
    )
    checks = Verification("out", (Check(attack, True, attack, attack),))
    plain, card = make_card(receipt, VERIFICATION, "me/tiny"), make_card(planted, checks, "me/tiny")
    assert card.data.to_dict() == plain.data.to_dict()
    outside = "".join(card.text.split("```")[::2])
    assert card.text.count("```") == plain.text.count("```")
    assert "<" not in outside and "49" not in outside
    assert [line for line in outside.splitlines() if line.startswith("#")] == [
        line for line in "".join(plain.text.split("```")[::2]).splitlines() if line.startswith("#")
    ]
    assert escaped(attack) in outside


def test_plain_text_is_escaped_by_hand() -> None:
    assert escaped("a_b <b> | [x](y)") == "a\\_b &lt;b&gt; \\| \\[x\\]\\(y\\)"
