"""What can be wrong with a saved model, planted one by one: each is caught by the check of its name."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qtoolkit.publishing import read_receipt, write_receipt
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.origin_checks import check_license
from tests.publishing.checks import RUNNING, checks_of
from tests.publishing.conftest import CARD

pytestmark = pytest.mark.slow

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"
TOKEN = "hf_" + "Q" * 34
Plant = Callable[[Path], object]


def json_of(file: str, *place: str, **changes: Any) -> Plant:
    """Changes the values of a JSON file, at a place within it."""

    def plant(folder: Path) -> None:
        values = json.loads((folder / file).read_text())
        inner = values
        for key in place:
            inner = inner[key]
        inner.update(changes)
        (folder / file).write_text(json.dumps(values))

    return plant


def weights(change: Callable[[dict[str, torch.Tensor]], object], *, receipt: bool = False) -> Plant:
    """Changes the tensors; with `receipt`, its hashes too, as somebody would who wants to hide it."""

    def plant(folder: Path) -> None:
        with safe_open(folder / WEIGHTS, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata)
        if receipt:
            hide(folder)

    return plant


def hide(folder: Path) -> None:
    written = read_receipt(folder)
    assert written is not None
    write_receipt(folder, written)


def hidden(plant: Plant) -> Plant:
    """The same with a receipt that was made to fit."""

    def both(folder: Path) -> None:
        plant(folder)
        hide(folder)

    return both


def bytes_of(file: str, change: Callable[[bytearray], bytearray | bytes | None]) -> Plant:
    def plant(folder: Path) -> None:
        content = bytearray((folder / file).read_bytes())
        (folder / file).write_bytes(change(content) or content)

    return plant


def flip(content: bytearray) -> None:
    content[-1000] ^= 4


def lengthen(content: bytearray) -> None:
    content[0] ^= 1


def new(file: str, content: bytes | str) -> Plant:
    def plant(folder: Path) -> None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return plant


def gone(file: str) -> Plant:
    return lambda folder: (folder / file).unlink()


def to_float32(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()


def double_scales(tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if name.endswith(".scale"):
            tensor.mul_(2)


def shuffle_embeddings(tensors: dict[str, torch.Tensor]) -> None:
    # Larger too: a random model holds all words for nearly as likely.
    tensors["lm_head.weight"] = 8 * tensors["lm_head.weight"].roll(1, dims=0)


def drop_norm(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.layers.0.input_layernorm.weight"]


def add_tensor(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.9.surplus.weight"] = torch.zeros(3)


def with_metadata(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"format": "pt", "made_with": TOKEN})


def other_tokenizer(folder: Path) -> None:
    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"]["merges"] = values["model"]["merges"][1000:]
    (folder / "tokenizer.json").write_text(json.dumps(values))


def torch_pickle(folder: Path) -> None:
    torch.save({"a": torch.zeros(2)}, folder / "weights.dat")


def two_kinds(folder: Path) -> None:
    shutil.copy(folder / FIRST, folder / WEIGHTS)


def swap_shards(folder: Path) -> None:
    first, second = (folder / FIRST).read_bytes(), (folder / SECOND).read_bytes()
    (folder / FIRST).write_bytes(second)
    (folder / SECOND).write_bytes(first)


OTHER_END = {"eos_token": "<|im_start|>"}
QUANTIZATION = "quantization_config"
# What is wrong -> which model it is planted in, how, and the check that must tell.
DEFECTS: dict[str, tuple[str, Plant, str]] = {
    "a flipped bit in the weights": ("nf4", bytes_of(WEIGHTS, flip), "file hashes"),
    "a changed config": ("nf4", json_of("config.json", rms_norm_eps=0.1), "file hashes"),
    "a missing file": ("nf4", gone("generation_config.json"), "file hashes"),
    "a file of somebody else": ("nf4", new("notes.dat", "mine"), "file hashes"),
    "a truncated shard": ("sharded", bytes_of(SECOND, lambda content: content[:-100]), "safetensors"),
    "a lying header": ("nf4", bytes_of(WEIGHTS, lengthen), "safetensors"),
    "a shard too long": ("nf4", bytes_of(WEIGHTS, lambda content: content + b"x"), "safetensors"),
    "no weights": ("nf4", gone(WEIGHTS), "safetensors"),
    "a missing shard": ("sharded", gone(SECOND), "index"),
    "a stale index": ("sharded", json_of(INDEX, "weight_map", **{"model.old.weight": FIRST}), "index"),
    "swapped shards": ("sharded", swap_shards, "index"),
    "a wrong total size": ("sharded", json_of(INDEX, "metadata", total_size=5), "index"),
    "an index beside one file": ("sharded", two_kinds, "index"),
    "shards without an index": ("sharded", gone(INDEX), "index"),
    "a wrong dtype": ("nf4", weights(to_float32), "dtypes and sizes"),
    "larger than planned": (
        "nf4",
        weights(lambda tensors: tensors.update(x=torch.zeros(300_000)), receipt=True),
        "dtypes and sizes",
    ),
    "an unknown model type": ("nf4", json_of("config.json", model_type="mine"), "config"),
    "no config": ("nf4", gone("config.json"), "config"),
    "a config that is no JSON": ("nf4", new("config.json", "{"), "config"),
    "another recipe in the config": (
        "nf4",
        json_of("config.json", QUANTIZATION, bnb_4bit_use_double_quant=False),
        "quantization config",
    ),
    "no quantization in the config": ("nf4", json_of("config.json", quantization_config=None), "quantization config"),
    "v2 zeros labelled v1": (
        "gptq_v2",
        json_of("config.json", QUANTIZATION, checkpoint_format="gptq"),
        "quantization config",
    ),
    "v2 zeros labelled v1 everywhere": (
        "gptq_v2",
        hidden(
            lambda folder: [
                json_of("config.json", QUANTIZATION, checkpoint_format="gptq", format="gptq")(folder),
                json_of("quantize_config.json", checkpoint_format="gptq", format="gptq")(folder),
                json_of("qtoolkit.json", "settings", checkpoint_format="gptq")(folder),
            ]
        ),
        "quantization config",
    ),
    "two GPTQ configs that differ": ("gptq", json_of("quantize_config.json", group_size=64), "quantization config"),
    "a pickle": ("nf4", new("training_args.bin", b""), "no pickles"),
    "a pickle under another name": ("nf4", new("extra.dat", pickle.dumps({"a": 1})), "no pickles"),
    "a torch file under another name": ("nf4", torch_pickle, "no pickles"),
    "a program": ("nf4", new("modeling_mine.py", "print(1)"), "no code"),
    "a config that asks for code": (
        "nf4",
        json_of("config.json", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"}),
        "no code",
    ),
    "a tokenizer that asks for code": (
        "nf4",
        json_of("tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", None]}),
        "no code",
    ),
    "a program in capitals": ("nf4", new("EVIL.PY", "print(1)"), "no code"),
    "weights in capitals": ("nf4", new("weights.BIN", b""), "no pickles"),
    "arguments in capitals": ("nf4", new("ARGS.PKL", b""), "no pickles"),
    "attention from a repository": ("nf4", json_of("config.json", _attn_implementation="org/kernel:f"), "no code"),
    "attention of a part from a repository": (
        "nf4",
        json_of("config.json", _attn_implementation={"text_config": "paged|org/kernel@v1"}),
        "no code",
    ),
    "experts from a repository, in a part": (
        "nf4",
        json_of("config.json", text_config={"inner": [{"experts_implementation": "org/kernel"}]}),
        "no code",
    ),
    "code of a part": ("nf4", json_of("config.json", vision_config={"auto_map": {"AutoConfig": "m.C"}}), "no code"),
    "a way to generate from a repository": (
        "nf4",
        json_of("generation_config.json", custom_generate="org/name"),
        "no code",
    ),
    "code of an image processor": ("nf4", new("preprocessor_config.json", '{"auto_map": {"A": "m.C"}}'), "no code"),
    "an adapter's class from a package": (
        "nf4",
        new("adapter_config.json", '{"auto_mapping": {"parent_library": "os"}}'),
        "no code",
    ),
    "a config that is nested deep": ("nf4", new("config.json", '{"a":' * 400 + "1" + "}" * 400), "config"),
    "a quantization config that is text": (
        "nf4",
        json_of("config.json", quantization_config="x"),
        "quantization config",
    ),
    "a path in a tokenizer that is nested deep": (
        "nf4",
        new("tokenizer.json", f'{{"post": {"[" * 100_000}"/home/ann/x"{"]" * 100_000}}}'),
        "no local paths",
    ),
    "a token in a config": ("nf4", json_of("config.json", note=f"token={TOKEN}"), "no secrets"),
    "a token in the card": ("nf4", new("README.md", CARD + f'login("{TOKEN}")'), "no secrets"),
    "a token in a weight file's header": ("nf4", with_metadata, "no secrets"),
    "a private key": ("nf4", new("id", "-----BEGIN OPENSSH PRIVATE KEY-----\n"), "no secrets"),
    "a key of a cloud": ("nf4", new(".env", "AWS_ACCESS_KEY_ID=AKIA" + "A7" * 8), "no secrets"),
    "an absolute path": ("nf4", json_of("config.json", _name_or_path="/home/ann/models/tiny"), "no local paths"),
    "a Windows path": ("nf4", json_of("tokenizer_config.json", at="C:\\Users\\ann\\tiny"), "no local paths"),
    "the current folder": ("nf4", json_of("tokenizer_config.json", at=str(Path.cwd() / "x")), "no local paths"),
    "calibration texts": (
        "gptq",
        json_of("config.json", QUANTIZATION, dataset=["private text"] * 3),
        "no calibration text",
    ),
    "a long calibration text": (
        "gptq",
        json_of("config.json", QUANTIZATION, text="word " * 500),
        "no calibration text",
    ),
    "another licence in the card": ("nf4", new("README.md", CARD.replace("apache-2.0", "mit")), "licence"),
    "another base in the card": ("nf4", new("README.md", CARD.replace("tiny-llama\nb", "other\nb")), "base model"),
    "a damaged receipt": ("nf4", new("qtoolkit.json", '{"record": "Receipt"}'), "receipt"),
    "a receipt of another version": ("nf4", json_of("qtoolkit.json", schema_version=99), "receipt"),
    "a weight that is not there": ("nf4", weights(drop_norm, receipt=True), "loads in transformers"),
    "a surplus weight": ("nf4", weights(add_tensor, receipt=True), "loads in transformers"),
    "v2 zeros read as v1": (
        "gptq_v2",
        json_of("config.json", QUANTIZATION, checkpoint_format="gptq", format="gptq"),
        "logits",
    ),
    "scales that are twice as large": ("absmax", weights(double_scales, receipt=True), "logits"),
    "large outputs that are one word off": ("absmax", weights(shuffle_embeddings, receipt=True), "perplexity"),
    "a missing tokenizer": ("nf4", gone("tokenizer.json"), "token ids"),
    "another tokenizer": ("nf4", hidden(other_tokenizer), "token ids"),
    "another chat template": ("nf4", hidden(new("chat_template.jinja", "{{ messages }}")), "chat template"),
    "another end token": ("nf4", hidden(json_of("tokenizer_config.json", **OTHER_END)), "special tokens"),
    "another temperature": ("nf4", hidden(json_of("generation_config.json", temperature=1.5)), "generation config"),
}


@pytest.mark.parametrize(("model", "plant", "name"), DEFECTS.values(), ids=DEFECTS)
def test_a_planted_defect_is_caught_by_name(
    made: dict[str, Path], tmp_path: Path, model: str, plant: Plant, name: str
) -> None:
    folder = shutil.copytree(made[model], tmp_path / model)
    plant(folder)
    check = checks_of(folder, running=name in RUNNING)[name]
    assert check.passed is False, str(check)
    assert check.value
    assert TOKEN not in str(check)


def test_another_base_is_caught(made: dict[str, Path], base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "tiny-llama")
    json_of("config.json", rope_parameters={"rope_theta": 5.0, "rope_type": "default"})(other)
    assert checks_of(made["nf4"], base=other, running=False)["base model"].passed is False
    named = shutil.copytree(base, tmp_path / "small-llama")
    assert checks_of(made["nf4"], base=named, running=False)["base model"].passed is False


def test_a_base_with_another_tokenizer_is_caught(made: dict[str, Path], base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "tiny-llama")
    other_tokenizer(other)
    assert checks_of(made["nf4"], base=other)["token ids"].passed is False


def test_a_licence_that_nobody_names_is_not_made_up(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["nf4"], tmp_path / "copy")
    json_of("qtoolkit.json", license=None)(folder)
    check = checks_of(folder, running=False)["licence"]
    assert (check.passed, check.value) == (None, "not known")
    given = check_license(open_artifact(folder), "mit")
    assert (given.passed, given.value) == (True, "mit, as given here")
    # The base's own counts where it is known: another one is refused before (tests/publishing/test_card.py).
    assert check_license(open_artifact(made["nf4"]), "mit").value == "apache-2.0"
