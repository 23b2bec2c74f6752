"""The card: what the Hub reads of it, and that nothing in it is made up or breaks out of its place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard

from qtoolkit.errors import ConfigError
from qtoolkit.publishing import read_receipt
from qtoolkit.publishing.card import make_card
from qtoolkit.records import Check, Receipt, Verification
from qtoolkit.records.markdown import escaped
from qtoolkit.requests import PublishRequest
from tests.fake_hub.writable import WritableHub

TINY = PublishRequest("out", "me/tiny")
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
        ("fp4", ["bitsandbytes", "4-bit", "quantized", "qtoolkit"]),
        ("int8", ["bitsandbytes", "8-bit", "quantized", "qtoolkit"]),
        ("gptq", ["gptq", "4-bit", "quantized", "qtoolkit"]),
        ("absmax", ["absmax", "8-bit", "quantized", "qtoolkit"]),
    ],
    indirect=["receipt"],
    ids=["nf4", "fp4", "int8", "gptq", "absmax"],
)
def test_what_the_hub_reads(receipt: Receipt, tags: list[str], writable_hub: WritableHub, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(str(make_card(receipt, VERIFICATION, TINY)))
    card = ModelCard.load(tmp_path / "README.md")
    # What an upload asks before it sends; `ModelCard.validate` of older versions asks huggingface.co itself.
    HfApi()._validate_yaml(str(card))
    asked = [request.status for request in writable_hub.requests if request.path == "/api/validate-yaml"]
    assert asked == [200]
    assert card.data.to_dict() == {
        "base_model": "someone/tiny-llama",
        "base_model_relation": "quantized",
        "library_name": "qtoolkit" if tags[0] == "absmax" else "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": tags,
    }


def test_a_person_reads_what_was_done(receipt: Receipt) -> None:
    text = make_card(receipt, VERIFICATION, TINY).text
    assert "# tiny\n" in text
    assert f"[someone/tiny-llama](https://huggingface.co/someone/tiny-llama) (commit `{COMMIT}`)" in text
    assert "14 linear layers in NF4, 4 bits" in text
    assert 'from_pretrained("me/tiny", device_map="auto")' in text
    assert "# pip install transformers accelerate bitsandbytes\n" in text
    assert "It was not measured how far" in text
    assert "| logits | passed | off by 0 |" in text and "| licence | not checked | not known |" in text
    assert "- 1 module: excluded by name" in text


def test_its_recipe_is_a_call_that_makes_the_same(receipt: Receipt) -> None:
    text = make_card(receipt, VERIFICATION, TINY).text
    code = text.split("## What was done\n\n```python\n")[1].split("```")[0]
    expression = code.split("config = ")[1].split("\nqt.quantize")[0]
    import qtoolkit as qt

    assert eval(expression, {"qt": qt}).to_dict() == dict(receipt.settings)  # noqa: S307
    assert f"qt.quantize('someone/tiny-llama', config, output='output', revision='{COMMIT}')\n" in code


def test_a_licence_that_is_not_known_is_asked_for(receipt: Receipt) -> None:
    unknown = replace(receipt, license=None)
    with pytest.raises(ConfigError, match="licence of someone/tiny-llama is not known, and none is made up"):
        make_card(unknown, VERIFICATION, TINY)
    assert make_card(unknown, VERIFICATION, PublishRequest("out", "me/tiny", license="mit")).data.license == "mit"


def test_another_licence_than_the_bases_is_refused(receipt: Receipt) -> None:
    with pytest.raises(ConfigError, match=r"license='mit', but someone/tiny-llama stands under 'apache-2\.0'"):
        make_card(receipt, VERIFICATION, PublishRequest("out", "me/tiny", license="mit"))


PAGE = "https://huggingface.co/someone/tiny-llama"


@pytest.mark.parametrize(
    ("inherited", "name", "link"),
    [
        ({"license_name": "mine", "license_link": "LICENSE"}, "mine", f"{PAGE}/blob/{COMMIT}/LICENSE"),
        ({"license_name": "mine", "license_link": "https://mine.org/terms"}, "mine", "https://mine.org/terms"),
        ({}, None, PAGE),
    ],
    ids=["a file beside the card", "an address", "nothing"],
)
def test_a_licence_of_its_own_is_named_and_linked_as_the_base_does(
    receipt: Receipt, inherited: dict[str, str], name: str | None, link: str
) -> None:
    data = make_card(replace(receipt, license="other", inherited=inherited), VERIFICATION, TINY).data.to_dict()
    assert (data["license"], data.get("license_name"), data["license_link"]) == ("other", name, link)


def test_languages_are_those_of_the_base(receipt: Receipt) -> None:
    card = make_card(replace(receipt, inherited={"language": ["en", "de"]}), VERIFICATION, TINY)
    assert card.data.language == ["en", "de"]


def test_who_takes_a_copy_of_a_gated_model_is_told_of_its_terms(receipt: Receipt) -> None:
    open_card, card = (make_card(replace(receipt, gated=gated), VERIFICATION, TINY) for gated in (False, True))
    assert "accept its terms" in card.text and "accept its terms" not in open_card.text
    assert PAGE in card.data.to_dict()["extra_gated_prompt"]
    assert "extra_gated_prompt" not in open_card.data.to_dict()


@pytest.mark.parametrize("receipt", ["gptq", "gptq_v2", "absmax"], indirect=True, ids=str)
@pytest.mark.parametrize("rules", [{}, {"*.down_proj": {"bits": 8}}], ids=["one width", "mixed"])
def test_it_names_only_readers_that_are_known_to_read_it(receipt: Receipt, rules: dict[str, Any]) -> None:
    card = make_card(
        replace(receipt, settings=dict(receipt.settings) | {"rules": rules}),
        VERIFICATION,
        TINY,
    )
    own = receipt.method == "absmax" or bool(rules)
    assert ("import qtoolkit  #" in card.text) == own == (card.data.library_name == "qtoolkit")
    assert ("computes with wrong weights" in card.text) == (receipt.method == "absmax")
    assert ("`python -m qtoolkit lm_eval --model hf --model_args pretrained=me/tiny`" in card.text) == own
    assert ("optimum gptqmodel\n" in card.text) == (not own)
    loads = {line.split(" | ")[0]: line.split(" | ")[1] for line in card.text.splitlines() if line.count(" | ") == 2}
    assert loads["| vLLM 0.33.0"] == ("no" if receipt.method == "absmax" else "yes")
    assert (loads["| transformers 5.24.0"] == "yes") == (not own)
    assert ("| gptqmodel 7.7.0" in loads) == (receipt.method == "gptq")
    plain = receipt.method == "gptq" and receipt.settings["checkpoint_format"] == "gptq" and not rules
    assert ("| auto-gptq 0.7.1" in loads) == plain
    assert ("4-bit" in card.data.tags) == (receipt.method == "gptq" and not rules)


def test_a_base_that_is_not_on_the_hub_is_not_claimed(receipt: Receipt) -> None:
    local = replace(receipt, source=replace(receipt.source, name="tiny-llama", commit_hash=None))
    data = make_card(local, VERIFICATION, TINY).data.to_dict()
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
    plain, card = (
        make_card(receipt, VERIFICATION, TINY),
        make_card(planted, checks, TINY),
    )
    assert card.data.to_dict() == plain.data.to_dict()
    outside = "".join(card.text.split("```")[::2])
    assert card.text.count("```") == plain.text.count("```")
    assert "<" not in outside and "49" not in outside
    assert [line for line in outside.splitlines() if line.startswith("#")] == [
        line for line in "".join(plain.text.split("```")[::2]).splitlines() if line.startswith("#")
    ]
    assert escaped(attack) in outside


def test_plain_text_is_escaped_by_hand() -> None:
    assert escaped("a_b <b> | [x](y)") == "a\\_b &lt;b&gt; \\| \\[x\\](y)"
