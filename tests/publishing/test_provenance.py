"""What a card claims of the base: what the weights prove, or what a person says; never a name alone."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, snapshot_download
from transformers import AutoModelForCausalLM, PreTrainedModel

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, ConfigError
from qtoolkit.publishing import read_receipt
from qtoolkit.publishing.card import make_card
from qtoolkit.records import Check, Receipt, Verification
from qtoolkit.requests import PublishRequest
from tests.fake_hub.server import Hub
from tests.publishing.checks import checks_of
from tests.sample_models import random_model

NOTHING = Verification("out", (Check("logits", True, "0"),))


def card_of(receipt: Receipt, **options: Any) -> tuple[dict[str, Any], str]:
    """The metadata of a card, read back as the Hub reads it, and its text."""
    license = None if receipt.license else "mit"
    card = make_card(receipt, NOTHING, PublishRequest("out", "me/tiny", license=license, **options))
    return ModelCard(str(card)).data.to_dict(), card.text


@pytest.fixture
def org_base(hub: Hub, tmp_path: Path) -> Callable[..., PreTrainedModel]:
    """Loads org/base, which is put on the Hub first, as a person does who goes on with it in memory."""

    def load(architecture: str = "llama", stored: torch.dtype = torch.bfloat16, **options: Any) -> PreTrainedModel:
        folder = tmp_path / "base"
        random_model(architecture, stored).save_pretrained(folder)
        hub.add("org/base", {file.name: file.read_bytes() for file in folder.iterdir()})
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained("org/base", **options)
        return model

    return load


def quantized(model: PreTrainedModel) -> Receipt:
    receipt = qt.quantize(model, "absmax", device="cpu").receipt
    assert receipt is not None
    return receipt


KINDS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "llama": (("llama",), {}),
    "tied": (("llama_tied",), {}),
    "experts": (("mixtral",), {}),
    "gpt2": (("gpt2",), {}),
    "read in float32": (("llama",), {"dtype": torch.float32}),
    "read in bfloat16": (("llama", torch.float32), {"dtype": torch.bfloat16}),
}


@pytest.mark.parametrize(("arguments", "options"), KINDS.values(), ids=KINDS)
def test_weights_of_the_cached_base_prove_it(
    org_base: Callable[..., PreTrainedModel], hub: Hub, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    model = org_base(*arguments, **options)
    asked = len(hub.requests)
    receipt = quantized(model)
    assert len(hub.requests) == asked
    commit = hub.repositories["org/base"].refs["main"]
    assert (receipt.source.format, receipt.source.commit_hash) == ("loaded", commit)
    data, text = card_of(receipt)
    assert (data["base_model"], data["base_model_relation"]) == ("org/base", "quantized")
    assert f"A quantized copy of [org/base](https://huggingface.co/org/base) (commit `{commit}`)" in text
    assert f"qt.quantize('org/base', config, output='output', revision='{commit}')" in text


def merge(model: PreTrainedModel) -> None:
    """What merge_and_unload does to a layer: W + B A."""
    weight = model.get_submodule("model.layers.1.mlp.down_proj").weight
    assert isinstance(weight, torch.Tensor)
    with torch.no_grad():
        weight += 0.01 * torch.ones(64, 1, dtype=weight.dtype) @ torch.ones(1, 128, dtype=weight.dtype)


def one_number(model: PreTrainedModel) -> None:
    with torch.no_grad():
        model.get_submodule("model.norm").weight.view(-1)[-1] += 0.5  # type: ignore[union-attr, operator]


def another_config(model: PreTrainedModel) -> None:
    model.config.rms_norm_eps = 0.1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(merge, "model.layers.1.mlp.down_proj.weight of the model in memory is not that", id="merged"),
        pytest.param(one_number, "model.norm.weight of the model in memory is not that", id="one number"),
        pytest.param(another_config, "rms_norm_eps in the config of the model in memory is not that", id="config"),
    ],
)
def test_a_model_that_was_changed_in_memory_is_not_called_a_copy(
    org_base: Callable[..., PreTrainedModel], change: Callable[[PreTrainedModel], None], told: str
) -> None:
    model = org_base()
    change(model)
    receipt = quantized(model)
    assert receipt.source.commit_hash is None
    assert any(told in note and "not said to be a copy of org/base" in note for note in receipt.notes)
    data, text = card_of(receipt)
    assert "base_model" not in data and "base_model_relation" not in data
    assert "A quantized copy of a model in memory that came from [org/base]" in text
    assert "quantize('org/base'" not in text and "qt.quantize(model, config, output='output')" in text
    assert "the card of org/base tells of its limits" not in text


def test_what_is_not_in_the_cache_is_not_claimed() -> None:
    model = random_model("llama")
    model.name_or_path = "org/elsewhere"
    receipt = quantized(model)
    assert any("not compared with org/elsewhere" in note for note in receipt.notes)
    assert "base_model" not in card_of(receipt)[0]


def test_a_damaged_cache_proves_nothing(org_base: Callable[..., PreTrainedModel]) -> None:
    model = org_base()
    weights = Path(snapshot_download("org/base", local_files_only=True)) / "model.safetensors"
    weights.resolve().write_bytes(weights.read_bytes()[:-5])
    receipt = quantized(model)
    assert any("not compared with org/base" in note for note in receipt.notes)
    assert receipt.source.commit_hash is None


def test_a_model_of_no_name_is_called_by_its_class() -> None:
    receipt = quantized(random_model("llama"))
    data, text = card_of(receipt)
    assert "base_model" not in data
    assert "A quantized copy of a LlamaForCausalLM in memory:" in text


@pytest.fixture
def changed(org_base: Callable[..., PreTrainedModel], tmp_path: Path) -> Path:
    """A folder that was made from a model in memory which is no longer its base."""
    model = org_base()
    merge(model)
    qt.quantize(model, "absmax", device="cpu", output=tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("relation", [None, "finetune", "merge", "adapter", "quantized"])
def test_the_person_names_the_base_and_the_relation(changed: Path, relation: str | None) -> None:
    receipt = read_receipt(changed)
    assert receipt is not None
    data, text = card_of(receipt, base_model="org/other", base_model_relation=relation)
    assert (data["base_model"], data["base_model_relation"]) == ("org/other", relation or "quantized")
    named = (
        f"[org/other](https://huggingface.co/org/other) ({relation or 'quantized'}), as who published this copy says"
    )
    assert f"Its base model is {named}" in text
    card = make_card(receipt, NOTHING, PublishRequest("out", "me/x", license="mit", base_model="org/other"))
    (changed / "README.md").write_text(str(card))
    check = checks_of(changed, running=False)["base model"]
    assert check.passed, str(check)
    assert "not known to be that model; the card names org/other" in check.value


@pytest.mark.usefixtures("run_here")
def test_it_is_asked_for_by_publish_and_by_the_magic(changed: Path) -> None:
    from qtoolkit.notebook.lines import read_line
    from qtoolkit.requests import PublishRequest

    line = f"{changed} me/x --license mit --base-model org/other --base-model-relation finetune --dry-run"
    given = read_line("qpublish", line)
    card = qt.publish(*given.words, **given.options_of(PublishRequest)).card
    assert "base_model: org/other\n" in card and "base_model_relation: finetune\n" in card


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"base_model": "other"}, "base_model must be a model on the Hub, org/name, got 'other'"),
    "a link": ({"base_model": "a/b](http://x)"}, "base_model must be a model on the Hub"),
    "a number": ({"base_model": 5}, "base_model must be a model on the Hub"),
    "no relation": ({"base_model": "a/b", "base_model_relation": "copy"}, "one of finetune, adapter, merge, quantized"),
    "a relation to nothing": ({"base_model_relation": "finetune"}, "to a base that is not known: give base_model="),
}


@pytest.mark.parametrize(("options", "told"), BAD.values(), ids=BAD)
def test_what_the_hub_does_not_know_is_refused(made: dict[str, Path], options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        qt.publish(made["absmax"], "me/x", dry_run=True, **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"base_model": "org/other"}, "base_model='org/other', but this is a quantized copy of someone/tiny-llama"),
        ({"base_model_relation": "merge"}, "base_model_relation='merge', but this is a quantized copy of someone/tiny"),
    ],
    ids=["base", "relation"],
)
def test_what_the_receipt_proves_is_not_overruled(made: dict[str, Path], options: dict[str, str], told: str) -> None:
    receipt = on_hub(made)
    assert card_of(receipt, base_model="someone/tiny-llama", base_model_relation="quantized")[0]["base_model"]
    with pytest.raises(ConfigError, match=told):
        card_of(receipt, **options)


def test_into_a_card_of_ones_own_it_is_written_by_hand(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["absmax"], tmp_path / "copy")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    with pytest.raises(ConfigError, match="is published as it is, without base_model=: remove the file"):
        qt.publish(folder, "me/x", dry_run=True, base_model="org/base")


TREES: dict[str, tuple[str, object, object]] = {
    "one": ("base_model: org/base", "org/base", "finetune"),
    "with its relation": ("base_model: org/base\nbase_model_relation: merge", "org/base", "merge"),
    "several": ("base_model:\n- org/a\n- org/b\nbase_model_relation: merge", ["org/a", "org/b"], "merge"),
    "an unknown relation": ("base_model: org/base\nbase_model_relation: copy", "org/base", "finetune"),
    "a path": ("base_model: /home/me/base", None, None),
    "a link": ("base_model: 'a/b](http://x)'", None, None),
    "a number": ("base_model: 5", None, None),
}


@pytest.mark.parametrize(("said", "base", "relation"), TREES.values(), ids=TREES)
def test_the_base_of_a_local_fine_tune_is_kept(tmp_path: Path, said: str, base: object, relation: object) -> None:
    folder = tmp_path / "mine"
    random_model("llama").save_pretrained(folder)
    (folder / "README.md").write_text(f"---\nlicense: mit\n{said}\n---\n# mine\n")
    qt.quantize(folder, "absmax", device="cpu", output=tmp_path / "out")
    receipt = read_receipt(tmp_path / "out")
    assert receipt is not None
    data, text = card_of(receipt)
    assert (data.get("base_model"), data.get("base_model_relation")) == (base, relation)
    assert "A quantized copy of mine" in text
    assert ("as the card of mine says" in text) == (base is not None)
    (tmp_path / "out" / "README.md").write_text(str(make_card(receipt, NOTHING, PublishRequest("out", "me/x"))))
    assert checks_of(tmp_path / "out", running=False)["base model"].passed


def on_hub(made: dict[str, Path], **source: object) -> Receipt:
    receipt = read_receipt(made["nf4"])
    assert receipt is not None
    named = {"name": "someone/tiny-llama", "commit_hash": "c" * 40, **source}
    return replace(receipt, source=replace(receipt.source, **named))  # type: ignore[arg-type]


EVIL = "x`) [click](http://evil) <b>\n# Heading"


@pytest.mark.parametrize("commit", [EVIL, "", "c" * 39, "C" * 40, "../" * 10, "c" * 41], ids=repr)
def test_a_commit_in_a_card_is_one_or_is_not_there(made: dict[str, Path], commit: str) -> None:
    receipt = on_hub(made, commit_hash=commit)
    plain = card_of(on_hub(made, commit_hash=None))
    assert card_of(receipt) == plain
    licensed = replace(receipt, license="other", inherited={"license_name": "mine", "license_link": "LICENSE"})
    assert card_of(licensed)[0]["license_link"].endswith("/blob/main/LICENSE")


def test_a_commit_that_is_none_leads_to_no_folder(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["nf4"], tmp_path / "copy")
    values = json.loads((folder / "qtoolkit.json").read_text())
    values["source"]["commit_hash"] = f"../../../{tmp_path}"
    (folder / "qtoolkit.json").write_text(json.dumps(values))
    receipt = read_receipt(folder)
    assert receipt is not None and receipt.source.commit_hash is None


@pytest.mark.parametrize("field", ["name", "license", "license_link", "language", "option", "calibration", "method"])
def test_no_field_of_a_receipt_breaks_out_of_its_place(made: dict[str, Path], tmp_path: Path, field: str) -> None:
    folder = shutil.copytree(made["gptq" if field == "calibration" else "nf4"], tmp_path / "copy")
    values = json.loads((folder / "qtoolkit.json").read_text())
    values["gated"] = True
    evil = f"```\n{EVIL}"
    if field == "name":
        values["source"]["name"] = evil
    elif field == "option":
        values["settings"][evil] = 1
    elif field == "calibration":
        values["calibration"]["text"] = evil
    elif field in ("license_link", "language"):
        values["license"] = "other"
        values["inherited"] = {field: evil, "license_name": [5]}
        values["source"] |= {"name": "someone/tiny", "commit_hash": "c" * 40}
    else:
        values[field] = evil
    (folder / "qtoolkit.json").write_text(json.dumps(values))
    receipt = read_receipt(folder)
    assert receipt is not None
    if field == "method":
        with pytest.raises(ConfigError) as caught:
            card_of(receipt)
        assert len(str(caught.value).splitlines()) == 1
        return
    _, text = card_of(receipt)
    outside = "".join(text.split("```")[::2])
    assert text.count("```") == 4
    assert "<b>" not in outside and "](http://evil)" not in outside.replace("\\]", "")
    assert "\n# Heading" not in outside
    for line in (str(receipt), *map(str, checks_of(folder, running=False).values())):
        assert "\n# Heading" not in line


def test_a_licence_link_that_is_no_text_is_left_out(made: dict[str, Path]) -> None:
    receipt = replace(on_hub(made), license="other", inherited={"license_link": 5})
    assert card_of(receipt)[0]["license_link"] == "https://huggingface.co/someone/tiny-llama"


def test_a_receipt_that_is_no_receipt_is_still_refused(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["nf4"], tmp_path / "copy")
    values = json.loads((folder / "qtoolkit.json").read_text())
    values["source"]["commit_hash"] = 5
    (folder / "qtoolkit.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="is no receipt"):
        read_receipt(folder)
