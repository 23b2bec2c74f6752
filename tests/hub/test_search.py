"""A search finds what is on this machine, then what the Hub has, and says it when the Hub stays silent."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.hub import search
from qtoolkit.hub.repository import fetch
from qtoolkit.records import FoundModel, FoundModels
from tests.fake_hub.server import Fault, Hub
from tests.hub.hub_models import accept, ignore_progress, single
from tests.sample_models import random_model

WEIGHTS = save({"a": torch.zeros(7, 3, dtype=torch.bfloat16), "b": torch.zeros(5)})
NUMBERS, BYTES = 7 * 3 + 5, 7 * 3 * 2 + 5 * 4
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
GPTQ = LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
CARD = b"---\nlicense: apache-2.0\n---\n"
TOKEN = "hf_" + "t" * 34
SEARCH = "/api/models$"


def files(config: dict[str, Any] | None = None, **more: bytes) -> dict[str, bytes]:
    """A model of two tensors."""
    return {"config.json": json.dumps(config or LLAMA).encode(), "model.safetensors": WEIGHTS, **more}


def into_cache(hub: Hub, name: str, content: dict[str, bytes]) -> None:
    hub.add(name, content)
    fetch(name, on_progress=ignore_progress, check=accept)
    hub.repositories.clear()
    hub.requests.clear()


def names(found: FoundModels) -> list[tuple[str, str]]:
    return [(model.name, model.place) for model in found.models]


def claimed(hub: Hub, **claims: Any) -> FoundModel:
    """What is found of a model of which the Hub states this."""
    hub.add("org/model", {"config.json": b"{}"}, claims=claims)
    (model,) = qt.find_models("org/model").models
    return model


def test_a_model_of_the_hub_is_described_in_one_request_for_each_task(hub: Hub) -> None:
    hub.add("org/model", files() | {"README.md": CARD}, downloads=1234, gated=True)
    assert qt.find_models("ORG/Mod") == FoundModels(
        "ORG/Mod",
        (
            FoundModel(
                "org/model", "hub", "LlamaForCausalLM", NUMBERS, BYTES, "apache-2.0", True, ("safetensors",), 1234, None
            ),
        ),
    )
    # huggingface_hub 2 also asks, once a day, which agents there are.
    assert [request.path for request in hub.requests if "model" in request.path] == ["/api/models"] * 2


def test_models_that_take_images_are_found_beside_others_by_their_downloads(hub: Hub) -> None:
    for name, task, downloads in (("a", "text-generation", 1), ("b", "image-text-to-text", 3), ("c", "", 9)):
        hub.add(f"org/{name}", files(), pipeline_tag=task, downloads=downloads)
    assert [model.name for model in qt.find_models("org").models] == ["org/b", "org/a"]
    assert [model.name for model in qt.find_models("org", limit=1).models] == ["org/b"]


def test_the_most_downloaded_come_first_and_no_more_than_the_limit(hub: Hub) -> None:
    for name, downloads in (("org/rare", 1), ("org/common", 100), ("org/known", 10)):
        hub.add(name, files(), downloads=downloads)
    assert names(qt.find_models("org", limit=2)) == [("org/common", "hub"), ("org/known", "hub")]
    assert len(qt.find_models().models) == 3


def test_a_server_that_ignores_the_limit_is_cut(hub: Hub) -> None:
    body = json.dumps([{"id": f"org/{number}"} for number in range(5)]).encode()
    hub.faults = [Fault(SEARCH, status=200, body=body)]
    assert names(qt.find_models(limit=2)) == [("org/0", "hub"), ("org/1", "hub")]


def test_only_what_generates_text_is_found(hub: Hub) -> None:
    hub.add("org/picture", files(), pipeline_tag="text-to-image")
    assert qt.find_models("org").models == ()


def test_a_token_finds_private_models(hub: Hub) -> None:
    hub.tokens = {TOKEN}
    hub.add("org/secret", files(), private=True)
    assert names(qt.find_models("org")) == []
    assert names(qt.find_models("org", token=TOKEN)) == [("org/secret", "hub")]


def test_of_a_quantized_model_the_size_is_not_made_up(hub: Hub) -> None:
    """The Hub counts what is packed."""
    hub.add("org/small", files(GPTQ))
    (model,) = qt.find_models("org").models
    assert (model.quantized, model.size, model.num_parameters) == ("gptq", None, NUMBERS)


@pytest.mark.parametrize(
    ("listed", "formats"),
    [
        pytest.param(["model-00001-of-00002.safetensors"], ("safetensors",), id="safetensors"),
        pytest.param(["a.Q4_K_M.gguf", "b/c.GGUF"], ("gguf",), id="gguf"),
        pytest.param(["pytorch_model.bin"], ("pickle",), id="pickle"),
        pytest.param(["model.safetensors", "x.gguf", "model.pth"], ("safetensors", "gguf", "pickle"), id="all"),
        pytest.param(["training_args.bin", "optimizer.pt", "rng_state_0.pth", "onnx/x.bin"], (), id="no weights"),
        pytest.param(["adapter_model.safetensors"], (), id="an adapter"),
    ],
)
def test_formats_are_those_of_the_weights(hub: Hub, listed: list[str], formats: tuple[str, ...]) -> None:
    assert claimed(hub, siblings=[{"rfilename": name} for name in listed]).formats == formats


def test_a_gguf_repository_is_described_by_its_header(hub: Hub) -> None:
    model = claimed(hub, gguf={"total": 8_030_261_312, "architecture": "llama"}, config=None, siblings=None)
    assert (model.num_parameters, model.architecture, model.formats) == (8_030_261_312, "llama", ("gguf",))
    assert model.size is None


@pytest.mark.parametrize(
    ("claims", "field", "value"),
    [
        pytest.param({"gated": "manual"}, "gated", True, id="gated by hand"),
        pytest.param({"gated": False}, "gated", False, id="not gated"),
        pytest.param({"gated": ["auto"]}, "gated", None, id="gated as a list"),
        pytest.param({"cardData": {"license": ["mit"]}}, "license", "mit", id="one licence in a list"),
        pytest.param({"cardData": {"license": ["mit", "gpl-3.0"]}}, "license", None, id="two licences"),
        pytest.param({"cardData": {"license": {"name": "mit"}}}, "license", None, id="a licence as a mapping"),
        pytest.param({"cardData": "license: mit"}, "license", None, id="a card that is text"),
        pytest.param({"cardData": {"license": "<b>mit</b>\n x"}}, "license", "<b>mit</b> x", id="markup in a licence"),
        pytest.param({"cardData": {"license": "a\ud800"}}, "license", "a?", id="half a character"),
        pytest.param({"cardData": {"license": "x" * 10_000}}, "license", None, id="an endless licence"),
        pytest.param({"downloads": "many"}, "downloads", None, id="downloads as text"),
        pytest.param({"downloads": True}, "downloads", None, id="downloads as yes"),
        pytest.param({"downloads": -1}, "downloads", None, id="less than no downloads"),
        pytest.param({"config": []}, "architecture", None, id="a config that is a list"),
        pytest.param(
            {"config": {"architectures": [7, "A"]}}, "architecture", "A", id="an architecture that is a number"
        ),
        pytest.param({"config": {"quantization_config": {}}}, "quantized", None, id="an empty quantization"),
        pytest.param({"config": {"quantization_config": {"bits": 4}}}, "quantized", "unknown", id="an unnamed method"),
        pytest.param({"config": {"quantization_config": "awq"}}, "quantized", "awq", id="a quantization as text"),
        pytest.param({"safetensors": {"total": 5}}, "size", None, id="no types"),
        pytest.param({"safetensors": {"total": 5}}, "num_parameters", 5, id="a total alone"),
        pytest.param({"safetensors": {"parameters": {"F4": 8, "F32": 8}}}, "size", None, id="an unknown type"),
        pytest.param({"safetensors": {"parameters": {"F32": "8"}}}, "size", None, id="a count as text"),
        pytest.param({"siblings": [1, {}, {"rfilename": None}]}, "formats", (), id="files without names"),
    ],
)
def test_an_odd_field_is_plain_data(hub: Hub, claims: dict[str, Any], field: str, value: object) -> None:
    assert getattr(claimed(hub, **claims), field) == value


def test_odd_models_do_not_hide_the_others(hub: Hub) -> None:
    odd = [None, 3, [], {}, {"id": None}, {"id": " "}, {"id": "x" * 1000}, {"id": "<script>"}, {"id": "org/model"}]
    hub.faults = [Fault(SEARCH, status=200, body=json.dumps([*odd, {"id": "org/model"}]).encode())]
    assert names(qt.find_models()) == [("<script>", "hub"), ("org/model", "hub")]


def test_markup_is_escaped(hub: Hub) -> None:
    hub.add("org/model", files(), claims={"id": "<script>alert(1)</script>"})
    found = qt.find_models("org")
    assert "<script>" not in found._repr_html_()
    assert "<script>alert(1)</script>" in str(found)


def test_the_cache_comes_first_and_the_hub_adds_what_it_alone_tells(hub: Hub) -> None:
    into_cache(hub, "org/zebra", files())
    hub.add("org/apple", files(), downloads=9)
    hub.add("org/zebra", files(GPTQ) | {"README.md": CARD}, downloads=2)
    found = qt.find_models("org")
    assert names(found) == [("org/zebra", "cache"), ("org/apple", "hub")]
    assert found.models[0] == FoundModel(
        "org/zebra", "cache", "LlamaForCausalLM", NUMBERS, len(WEIGHTS), "apache-2.0", False, ("safetensors",), 2, None
    )  # fmt: skip


def test_the_cache_is_described_without_the_hub(hub: Hub) -> None:
    into_cache(hub, "org/Llama", files())
    into_cache(hub, "org/packed", files(GPTQ))
    assert qt.find_models(hub=False).models == (
        FoundModel("org/Llama", "cache", "LlamaForCausalLM", NUMBERS, len(WEIGHTS), formats=("safetensors",)),
        FoundModel(
            "org/packed", "cache", "LlamaForCausalLM", None, len(WEIGHTS), formats=("safetensors",), quantized="gptq"
        ),
    )
    assert names(qt.find_models("lLAMA", hub=False)) == [("org/Llama", "cache")]
    assert names(qt.find_models("mistral", hub=False)) == []
    assert hub.requests == []


@pytest.mark.parametrize("first", [LLAMA, GPTQ], ids=["full precision first", "quantized first"])
def test_of_several_commits_in_the_cache_the_newest_that_was_asked_for_is_told(hub: Hub, first: dict[str, Any]) -> None:
    second = GPTQ if first is LLAMA else LLAMA
    into_cache(hub, "org/model", files(first))
    into_cache(hub, "org/model", files(second))
    (model,) = qt.find_models(hub=False).models
    assert model.quantized == ("gptq" if second is GPTQ else None)


def test_a_damaged_model_in_the_cache_is_named_with_a_note(hub: Hub) -> None:
    into_cache(hub, "org/damaged", single())
    into_cache(hub, "org/whole", files())
    found = qt.find_models(hub=False)
    assert names(found) == [("org/damaged", "cache"), ("org/whole", "cache")]
    (note,) = found.notes
    assert note.startswith("org/damaged: ")
    assert "\n" not in note


def test_a_folder_is_found_by_its_path(hub: Hub, tmp_path: Path) -> None:
    model = random_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="100kB")
    shards = list(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    (found,) = qt.find_models(str(tmp_path)).models
    assert (found.name, found.place, found.formats) == (str(tmp_path), "folder", ("safetensors",))
    assert (found.architecture, found.num_parameters) == ("LlamaForCausalLM", model.num_parameters())
    assert (found.quantized, found.size) == (None, sum(file.stat().st_size for file in shards))


@pytest.mark.parametrize("name", ["model.gguf", "MODEL.GGUF"])
def test_a_gguf_file_is_found_by_its_path(hub: Hub, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"GGUF" + bytes(96))
    path = str(tmp_path / name)
    assert qt.find_models(path).models == (FoundModel(path, "folder", size=100, formats=("gguf",)),)


@pytest.mark.parametrize("config", [None, {}, {"quantization_config": {"quant_method": "gguf"}}], ids=str)
def test_files_of_a_folder_that_holds_no_other_models_are_found(
    hub: Hub, tmp_path: Path, config: dict[str, Any] | None
) -> None:
    """Unless its config names one, as qtoolkit writes it: then the folder is a model."""
    names = ["a-Q4_0.gguf", "a-Q8_0-00001-of-00002.gguf", "a-Q8_0-00002-of-00002.gguf", "mmproj-F16.gguf"]
    for name in names:
        (tmp_path / name).write_bytes(b"GGUF" + bytes(96))
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = [(model.name, model.size) for model in qt.find_models(str(tmp_path)).models]
    of_folder = [(str(tmp_path / names[0]), 100), (str(tmp_path / names[1]), 200)]
    assert found == ([(str(tmp_path), None)] if config else of_folder)


def test_a_folder_without_a_model_says_so(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"p")
    found = qt.find_models(str(tmp_path))
    assert found.models == (FoundModel(str(tmp_path), "folder", formats=("pickle",)),)
    assert len(found.notes) == 1 and "no config.json" in found.notes[0]


def test_a_folder_goes_before_a_model_of_its_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/model", files() | {"README.md": CARD}, downloads=3)
    (tmp_path / "org/model").mkdir(parents=True)
    for name, content in files(GPTQ).items():
        (tmp_path / "org/model" / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    (model,) = qt.find_models("org/model").models
    assert (model.place, model.quantized, model.license, model.downloads) == ("folder", "gptq", None, None)


@pytest.mark.parametrize("text", ["\0", "x" * 5000, "~nobody/x", "a\nb", "*", "[", "<b>", "..", " org "])
def test_any_text_may_be_searched_for(hub: Hub, text: str) -> None:
    hub.add("org/model", files())
    found = qt.find_models(text)
    assert found.text == text.strip()
    assert ("org/model", "hub") in names(found) or text != " org "


def _unplugged(hub: Hub, _monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub.close_session()
    hub.server_close()


def _offline(_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def _bad_token(_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "no token")


def _answering(status: int, body: bytes = b"", **fault: Any) -> Callable[[Hub, pytest.MonkeyPatch], None]:
    def prepare(hub: Hub, _monkeypatch: pytest.MonkeyPatch) -> None:
        hub.faults = [Fault(SEARCH, status=status, body=body, **fault)]

    return prepare


OUTAGES = pytest.mark.parametrize(
    ("break_down", "reason"),
    [
        pytest.param(_unplugged, r"does not answer \(.*then search again", id="no network"),
        pytest.param(_offline, "HF_HUB_OFFLINE is set: unset it", id="HF_HUB_OFFLINE"),
        pytest.param(
            _bad_token, "the Hub token is empty or holds blanks", id="a token of the environment that is none"
        ),
        pytest.param(_answering(401), "wants a token for a search", id="401"),
        pytest.param(_answering(403), r"refuses a search \(403\)", id="403"),
        pytest.param(_answering(404), "answers 404 for a search: see .*/models", id="404"),
        pytest.param(_answering(429), r"too many requests from here \(429\)", id="429"),
        pytest.param(_answering(503), r"down or overloaded \(503\)", id="503"),
        pytest.param(_answering(200, b"<html>log in</html>"), "not as the Hub does", id="a login page"),
        pytest.param(_answering(200, b'{"error": "x"}'), "not as the Hub does .dict instead of a list", id="no list"),
        pytest.param(_answering(200, b"\xff\xfe"), "not as the Hub does", id="no text"),
        pytest.param(_answering(200, b"[" * 100_000), "the answer to a search broke off", id="endless brackets"),
        pytest.param(_answering(200, b"[" + b" " * 100, cut=50), "does not answer", id="broken off"),
    ],
)


@OUTAGES
def test_this_machine_is_searched_all_the_same(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, break_down: Callable[[Hub, pytest.MonkeyPatch], None], reason: str
) -> None:
    into_cache(hub, "org/here", files())
    break_down(hub, monkeypatch)
    found = qt.find_models("org")
    assert names(found) == [("org/here", "cache")]
    (note,) = found.notes
    with pytest.raises(ValueError, match=f"^only this machine was searched, since .*{reason}"):
        raise ValueError(note)
    assert "\n" not in note
    assert len([request for request in hub.requests if request.path == "/api/models"]) <= 2


def test_a_token_that_the_hub_does_not_know_is_told_and_not_shown(hub: Hub) -> None:
    (note,) = qt.find_models(token=TOKEN).notes
    assert "does not accept the token (401)" in note
    assert TOKEN not in note


@pytest.mark.parametrize(
    ("body", "pause"),
    [
        pytest.param(b"[" + b" " * 100, 5.0, id="nothing after the headers"),
        pytest.param(b"[" + b" " * 5_000_000, 0.1, id="a little at a time"),
    ],
)
def test_a_slow_hub_is_not_waited_for(hub: Hub, body: bytes, pause: float) -> None:
    """Each piece of the second comes in time; all of it would take 8 s."""
    hub.faults = [Fault(SEARCH, status=200, body=body, pause=pause)]
    into_cache(hub, "org/here", files())
    started = time.monotonic()
    found = search.find_models("org", limit=1, hub=True, token=None, timeout=0.3)
    waited = time.monotonic() - started
    assert names(found) == [("org/here", "cache")]
    assert found.notes[0].endswith("search again")
    assert waited < 4


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(hub: Hub, limit: int) -> None:
    with pytest.raises(ConfigError, match=f"limit must be at least 1, got {limit}"):
        qt.find_models(limit=limit)
    assert hub.requests == []


@pytest.mark.parametrize("token", ["", "hf_\n", "two words"])
def test_a_token_that_cannot_be_one_is_refused(hub: Hub, token: str) -> None:
    with pytest.raises(ConfigError, match="the Hub token is empty or holds blanks"):
        qt.find_models(token=token)
    assert hub.requests == []


@pytest.mark.parametrize("text", ["/home/me/model", "~/models", "./output", "a/b/c", "C:\\models"])
def test_a_path_is_told_to_nobody(hub: Hub, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where no such folder is.
    monkeypatch.chdir(tmp_path)
    hub.add("org/model", files())
    assert qt.find_models(text).models == ()
    assert [request.path for request in hub.requests if "model" in request.path] == []
