"""What cannot be quantized is refused when it is opened: one line that names the thing and the next step."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import (
    BertForMaskedLM,
    LlamaForSequenceClassification,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from qtoolkit.errors import (
    CheckpointError,
    ConfigError,
    ModelNotFoundError,
    QToolkitError,
    SourceError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from qtoolkit.models.opening import open_checkpoint
from tests.fake_hub.server import Hub
from tests.sample_models import random_model, smollm2_gguf

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def open_model(model: Any, revision: str | None = None, quantized: bool = False) -> Any:
    return open_checkpoint(
        model, revision=revision, token=None, tokenizer=None, on_progress=lambda _: None, quantized=quantized
    )


def refusal(model: Any, kind: type[QToolkitError], **options: Any) -> str:
    """The message with which a model is refused: by this class and no other, in one line."""
    with pytest.raises(kind) as caught:
        open_model(model, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < len(str(model)) + 400
    return message


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model in one file."""
    folder = tmp_path_factory.mktemp("saved")
    random_model("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A sound model that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text()) | changes
    values = {key: value for key, value in values.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(values))


def replace_weights(folder: Path, name: str) -> None:
    (folder / SINGLE).rename(folder / name)


def shard(folder: Path, weight_map: object) -> None:
    """Two shards with a tensor each, under an index that says so, or something else."""
    (folder / SINGLE).unlink()
    for name in SHARDS:
        save_file({name: torch.ones(2)}, folder / name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_config(folder, **changes)


def index(weight_map: object) -> Callable[[Path], None]:
    return lambda folder: shard(folder, weight_map)


def weights_as(name: str) -> Callable[[Path], None]:
    return lambda folder: replace_weights(folder, name)


def gguf_files(*names: str) -> Callable[[Path], None]:
    """Nothing but such files."""

    def change(folder: Path) -> None:
        for file in folder.iterdir():
            file.unlink()
        for name in names:
            (folder / name).write_bytes(b"GGUF")

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def huge_config(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(10**12)


def overlapping_shards(folder: Path) -> None:
    shard(folder, {"a": SHARDS[0], "b": SHARDS[1]})
    for name in SHARDS:
        save_file({"both": torch.ones(2)}, folder / name)


def broken_tokenizer(folder: Path) -> None:
    write("tokenizer_config.json", '{"tokenizer_class": "PreTrainedTokenizerFast"}')(folder)
    write("tokenizer.json", '{"model": {"type": "nothing"}}')(folder)


def foreign_tokenizer(folder: Path) -> None:
    write("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["x.T", null]}, "tokenizer_class": "T"}')(folder)
    write("x.py", "raise AssertionError('this ran')")(folder)


FOREIGN = {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}, "model_type": "x"}
DAMAGED = "save it anew, or copy it from where it came from"

REFUSALS: dict[str, tuple[Callable[[Path], None], type[SourceError], str]] = {
    "pickles only": (weights_as("pytorch_model.bin"), UnsafeCheckpointError, r"pytorch_model\.bin.*ask its author"),
    "gguf only": (
        weights_as("a.Q4_0.gguf"),
        UnsupportedModelError,
        r"holds 1 \.gguf model: name one of .*a\.Q4_0\.gguf \(.*B\)$",
    ),
    "gguf without a config": (
        gguf_files("a-Q4_0.gguf", "a-Q8_0.gguf"),
        UnsupportedModelError,
        r"holds 2 \.gguf models: name one of .*a-Q4_0\.gguf \(4 bytes\), .*a-Q8_0\.gguf \(4 bytes\)$",
    ),
    "no weights": (remove(SINGLE), CheckpointError, f"no .*safetensors weights: {DAMAGED}"),
    "weights cut": (write(SINGLE, b"\x10\0\0\0"), CheckpointError, f"has 4 bytes, too few for a header: {DAMAGED}"),
    "no config": (remove("config.json"), ModelNotFoundError, "no config.json: name a folder"),
    "broken config": (write("config.json", "{"), CheckpointError, f"config.json is not valid JSON .*: {DAMAGED}"),
    "config in UTF-16": (write("config.json", "{}".encode("utf-16")), CheckpointError, f"not valid JSON .*: {DAMAGED}"),
    "deep config": (write("config.json", "[" * 100_000), CheckpointError, f"not valid JSON .*: {DAMAGED}"),
    "huge config": (huge_config, CheckpointError, f"config.json is larger than .*: {DAMAGED}"),
    "config is a list": (write("config.json", "[1]"), CheckpointError, f"is not a JSON object: {DAMAGED}"),
    "config is null": (write("config.json", "null"), CheckpointError, f"is not a JSON object: {DAMAGED}"),
    "endless layers": (config(num_hidden_layers=10**30), CheckpointError, "num_hidden_layers 1000+.* more than 512"),
    "layers in words": (config(num_hidden_layers="two"), CheckpointError, f"not a valid config .*: {DAMAGED}"),
    "odd hidden size": (config(hidden_size=63), CheckpointError, f"not a valid config .*63.*: {DAMAGED}"),
    "unknown dtype": (config(dtype="float7"), CheckpointError, "not a valid config .*float7"),
    "dtype of integers": (
        config(dtype="int8"),
        CheckpointError,
        "wants torch.int8 .*: it must be one of bfloat16",
    ),
    "foreign code": (config(**FOREIGN), UnsafeCheckpointError, "needs code .*'x'.* never runs: name a model"),
    "unknown type": (config(model_type="x"), UnsupportedModelError, "'x', which this transformers .*: update it"),
    "no type": (config(model_type=...), UnsupportedModelError, "None, which this transformers does not know"),
    "type is a list": (config(model_type=[]), UnsupportedModelError, "which this transformers does not know"),
    "sequence classifier": (
        config(architectures=["LlamaForSequenceClassification"]),
        UnsupportedModelError,
        "no causal .*'LlamaForSequenceClassification'.*: name one",
    ),
    "quantized": (
        config(quantization_config={"quant_method": "awq"}),
        UnsupportedModelError,
        "already .'awq'.: name",
    ),
    "quantized by a text": (config(quantization_config="a\nb"), UnsupportedModelError, r"already .'a\\nb'.: name the"),
    "index of an absent file": (index({"a": "gone.safetensors"}), CheckpointError, f"'gone.safetensors'.*: {DAMAGED}"),
    "index out of the folder": (index({"a": "../x.safetensors"}), CheckpointError, f"'../x.safetensors'.*: {DAMAGED}"),
    "index of a full path": (index({"a": "/etc/passwd"}), CheckpointError, f"'/etc/passwd'.*: {DAMAGED}"),
    "index of a number": (index({"a": 1, "b": SHARDS[0]}), CheckpointError, f"names 1, .*: {DAMAGED}"),
    "index of lists": (index({"a": []}), CheckpointError, rf"names \[\], .*: {DAMAGED}"),
    "index is a list": (index([]), CheckpointError, f"no weight_map .*: {DAMAGED}"),
    "empty index": (index({}), CheckpointError, f"no weight_map .*: {DAMAGED}"),
    "tensor in two shards": (
        overlapping_shards,
        CheckpointError,
        f"'both' .*00001.* and .*00002.*: {DAMAGED}",
    ),
    "broken tokenizer": (
        broken_tokenizer,
        SourceError,
        "cannot be read .*: give one as tokenizer=",
    ),
    "foreign tokenizer": (foreign_tokenizer, UnsafeCheckpointError, "needs code .* never runs: give one as tokenizer="),
    "broken generation config": (
        write("generation_config.json", "{"),
        CheckpointError,
        "generation_config.json is not valid .*: correct or remove it",
    ),
    "generation config is a list": (write("generation_config.json", "[1]"), CheckpointError, ": correct or remove it"),
}


@pytest.mark.parametrize(("change", "kind", "why"), REFUSALS.values(), ids=REFUSALS)
def test_a_folder_is_refused(folder: Path, change: Callable[[Path], None], kind: type[SourceError], why: str) -> None:
    open_model(folder)
    change(folder)
    message = refusal(folder, kind)
    assert str(folder) in message
    with pytest.raises(kind, match=why):
        open_model(folder)


SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "hidden_size": 8, "vocab_size": 9}
SMALL_T5 = {"num_layers": 1, "d_model": 8, "d_ff": 8, "num_heads": 1, "d_kv": 8, "vocab_size": 9}


@pytest.mark.parametrize(
    "kind", [BertForMaskedLM, T5EncoderModel, T5ForConditionalGeneration, LlamaForSequenceClassification]
)
def test_a_model_without_a_causal_head_is_refused(tmp_path: Path, kind: Any) -> None:
    config_class = kind.config_class
    model = kind(config_class(**SMALL_T5) if config_class is T5Config else config_class(pad_token_id=0, **SMALL))
    model.save_pretrained(tmp_path)
    for thing in (tmp_path, model):
        message = refusal(thing, UnsupportedModelError)
        assert kind.__name__ in message
        assert "is no causal language model" in message
        assert "AutoModelForCausalLM" in message


def test_a_loaded_model_that_is_quantized_already_is_refused() -> None:
    model = random_model("llama")
    model.config.quantization_config = {"quant_method": "awq"}
    assert "is quantized already: give the full-precision model" in refusal(model, UnsupportedModelError)


def test_a_loaded_model_whose_weights_are_elsewhere_is_refused() -> None:
    assert "offloaded: name its folder" in refusal(random_model("llama").to("meta"), UnsupportedModelError)


@pytest.mark.parametrize(
    ("thing", "kind", "name"),
    [
        pytest.param(torch.nn.Linear(2, 2), UnsupportedModelError, "Linear", id="a torch module"),
        pytest.param(3, ModelNotFoundError, "int", id="a number"),
        pytest.param(None, ModelNotFoundError, "NoneType", id="nothing"),
        pytest.param(b"org/name", ModelNotFoundError, "bytes", id="bytes"),
        pytest.param({}, ModelNotFoundError, "dict", id="a dict"),
    ],
)
def test_another_object_is_refused(thing: object, kind: type[SourceError], name: str) -> None:
    message = refusal(thing, kind)
    assert "PreTrainedModel" in message
    assert message.endswith(name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("/no/such/folder", id="absolute"),
        pytest.param("./no-such-folder", id="here"),
        pytest.param("../no-such-folder", id="above"),
        pytest.param("~/no-such-folder", id="home"),
        pytest.param("~nobody-of-that-name/x", id="home of nobody"),
        pytest.param("", id="empty"),
        pytest.param("/" + "x" * 5000, id="too long"),
    ],
)
def test_a_path_that_does_not_exist_is_refused_without_asking_the_hub(hub: Hub, name: str) -> None:
    message = refusal(name, ModelNotFoundError)
    assert repr(name) in message
    assert "does not exist: name a folder, a .gguf file, or a Hub id such as org/name" in message
    assert hub.requests == []


def test_a_path_object_is_never_a_hub_id(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "does not exist" in refusal(Path("org/name"), ModelNotFoundError)
    assert hub.requests == []


def test_what_looks_like_a_hub_id_is_asked_for_at_the_hub(hub: Hub) -> None:
    assert hub.url in refusal("org/no-such-model", ModelNotFoundError)
    assert "/api/models/org/no-such-model" in [request.path for request in hub.requests]


def test_a_name_that_no_file_can_have_is_no_hub_id_either(hub: Hub) -> None:
    assert "is no Hub id" in refusal("org/" + "x" * 5000, ModelNotFoundError)[-200:]
    assert "is no Hub id" in refusal("org/a\0b", ModelNotFoundError)


def test_a_plain_file_is_refused(saved: Path) -> None:
    message = refusal(saved / SINGLE, ModelNotFoundError)
    assert f"{str(saved / SINGLE)!r} is no folder and no .gguf file: name a folder" in message


@pytest.mark.parametrize(
    ("name", "start", "told"),
    [
        (
            "ggml-model-q4_0.bin",
            b"tjgg",
            "is a file of llama.cpp from before August 2023 (ggjt, not GGUF), which",
        ),
        ("sha256-0a1b", b"GGUF", "is a GGUF file whose name does not end in .gguf: give it such a name, or a link to"),
    ],
    ids=["from before GGUF", "of Ollama"],
)
def test_a_file_of_llama_cpp_by_another_name_is_known(name: str, start: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(start + bytes(60))
    assert f"{tmp_path / name} {told}" in refusal(tmp_path / name, UnsupportedModelError)


@pytest.mark.parametrize("start", [b"", b"GGUF", b"GGUF" + b"\xff" * 100, None], ids=["empty", "name", "lying", "cut"])
def test_a_damaged_gguf_file_is_refused(tmp_path: Path, start: bytes | None) -> None:
    file = tmp_path / "a.gguf"
    with smollm2_gguf().open("rb") as whole:
        file.write_bytes(whole.read(1_000_000) if start is None else start)
    assert f"cannot read {file} (" in refusal(file, CheckpointError)


@pytest.mark.parametrize("model", ["folder", "loaded"])
def test_a_revision_of_what_is_not_on_the_hub_is_refused(saved: Path, model: str) -> None:
    thing: Any = saved if model == "folder" else random_model("llama")
    assert "revision='v1' is for a model on the Hub" in refusal(thing, ConfigError, revision="v1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["config.json", SINGLE])
def test_a_file_that_may_not_be_read_is_named(folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    assert "check its permissions" in refusal(folder, CheckpointError)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
EDGES = st.sampled_from(["two", -1, 0, 1, 3, 10**9, 10**30, 1.5, None, True, [], {}, [1], "float32", {"a": 1}])


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_lying_config_raises_no_error_but_ours(folder: Path, data: st.DataObject) -> None:
    text = (folder / "config.json").read_text()
    key = data.draw(st.sampled_from(sorted(json.loads(text))))
    try:
        change_config(folder, **{key: data.draw(EDGES | JSON_VALUES)})
        try:
            open_model(folder).skeleton  # noqa: B018 it is built when it is asked for
        except QToolkitError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017 it need not raise
    finally:
        (folder / "config.json").write_text(text)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON_VALUES | st.dictionaries(st.just("weight_map"), JSON_VALUES | st.dictionaries(st.text(), JSON_VALUES)))
@example({"weight_map": {"a": "a\nb", "b": {}}})
def test_a_lying_index_raises_no_error_but_ours(folder: Path, values: object) -> None:
    (folder / SINGLE).unlink(missing_ok=True)
    (folder / INDEX).write_text(json.dumps(values))
    with pytest.raises(CheckpointError) as caught:
        open_model(folder)
    assert len(str(caught.value).splitlines()) == 1
