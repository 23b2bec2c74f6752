"""A folder like Llama 3's, quantized by every method, is read alike by transformers 4 and 5."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import qtoolkit as qt
from qtoolkit.checkpoints.config_ages import disagreements, with_both_ages
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.file_checks import check_config
from qtoolkit.publishing.verifier import check_files
from tests.sample_models import random_model

ROOT = Path(__file__).parent.parent.parent
TEXT = "The lighthouse keeper wrote a letter to her sister,\n who lived far from the sea: 12 + 34."
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|eot_id|>{% endfor %}"
SCALING = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 1024,
    "rope_type": "llama3",
}
RESULTS = {
    "nf4": qt.NF4(),
    "fp4": qt.FP4(),
    "int8": qt.Int8(),
    "fp8": qt.FP8(),
    "w8a8": qt.W8A8(),
    "absmax": qt.AbsMax(),
    "zero_point": qt.ZeroPoint(),
    "gptq": qt.GPTQ(calibration="self", num_samples=2, seq_len=32, group_size=32),
}
# Beside this one: Colab's versions or the newest, 4.46 and 4.57, as far as their environments were made.
READERS = [
    ROOT / name / "bin" / "python" for name in (".venv-colab", ".venv", ".venv-auto-gptq", ".venv-transformers-4")
]
READ = """
import json, sys
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, __version__
read = {}
for folder in sys.argv[2:]:
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rope = getattr(config, "rope_parameters", None) or {}
    old = int(__version__.split(".")[0]) < 5
    read[folder] = {
        "theta": config.rope_theta if old else rope["rope_theta"],
        "scaling": config.rope_scaling if old else {k: v for k, v in rope.items() if k != "rope_theta"},
        "dtype": str(config.torch_dtype if old else config.dtype).removeprefix("torch."),
        "ids": tokenizer(sys.argv[1]).input_ids,
        "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id,
        "extra": tokenizer.convert_tokens_to_ids(["<|user|>"]),
        "template": tokenizer.chat_template,
        "chat": tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False),
        "temperature": GenerationConfig.from_pretrained(folder).temperature,
    }
print(json.dumps(read))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers with the files that a model like Llama 3 has on the Hub, in their older form."""
    folder = tmp_path_factory.mktemp("both-ages") / "llama-3-like"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([TEXT] * 4, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    special = ["<|begin_of_text|>", "<|eot_id|>", "<|user|>"]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    first = tokenizer.token_to_id(special[0])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A", pair=f"{special[0]} $A $B", special_tokens=[(special[0], first)]
    )
    ends = {"bos_token_id": first, "eos_token_id": first + 1, "pad_token_id": None}
    # transformers writes into the dict that it is given.
    rope = {"rope_theta": 500000.0, "rope_scaling": dict(SCALING)}
    model = random_model("llama", vocab_size=tokenizer.get_vocab_size(), **rope, **ends)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", bos_token=special[0])
    edit(folder / "tokenizer_config.json", eos_token=special[1], additional_special_tokens=special[2:])
    edit(folder / "tokenizer_config.json", chat_template=TEMPLATE, model_max_length=131072)
    write(folder / "special_tokens_map.json", bos_token=special[0], eos_token=special[1])
    write(folder / "generation_config.json", do_sample=True, temperature=0.6, eos_token_id=[first + 1])
    values = json.loads((folder / "config.json").read_text())
    del values["rope_parameters"], values["dtype"]
    write(folder / "config.json", **values, rope_theta=500000.0, rope_scaling=SCALING, torch_dtype="bfloat16")
    (folder / "LICENSE.txt").write_text("You may.\n")
    (folder / "USE_POLICY.md").write_text("You may not.\n")
    return folder


@pytest.fixture(scope="module")
def results(base: Path) -> dict[str, Path]:
    """It quantized by every method, and once more from memory with a tokenizer that was changed."""
    folders = {name: base.parent / name for name in RESULTS}
    for name, config in RESULTS.items():
        qt.quantize(base, config, device="cpu", output=folders[name])
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.model_max_length = 77
    model = AutoModelForCausalLM.from_pretrained(base)
    qt.quantize(model, "absmax", device="cpu", output=base.parent / "memory", tokenizer=tokenizer)
    return folders | {"memory": base.parent / "memory"}


def write(file: Path, **values: object) -> None:
    file.write_text(json.dumps(values, indent=2))


def edit(file: Path, **values: object) -> None:
    write(file, **json.loads(file.read_text()) | values)


# What is written with Colab's versions is read by the one that differs most; those between the two ends by `make
# test-long`.
MARKS = (pytest.mark.long, pytest.mark.long, pytest.mark.slow, ())


@pytest.mark.parametrize(
    "reader",
    [pytest.param(reader, marks=marks) for reader, marks in zip(READERS, MARKS, strict=True)],
    ids=lambda reader: reader.parent.parent.name,
)
def test_each_transformers_reads_the_same(base: Path, results: dict[str, Path], reader: Path) -> None:
    if not reader.is_file() or Path(sys.prefix).resolve() == reader.parent.parent.resolve():
        pytest.skip("no such environment here, or it is this one")
    command = [reader, "-c", READ, TEXT, *map(str, results.values())]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"HF_HUB_OFFLINE": "1", "USE_TORCH": "0"}
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    backend = Tokenizer.from_file(str(base / "tokenizer.json"))
    first = backend.token_to_id("<|begin_of_text|>")
    wanted = {
        "theta": 500000.0,
        "scaling": SCALING,
        "dtype": "bfloat16",
        "ids": backend.encode(TEXT).ids,
        "bos": first,
        "eos": first + 1,
        "extra": [first + 2],
        "template": TEMPLATE,
        "chat": "<|begin_of_text|><|user|>Hi<|eot_id|>",
        "temperature": 0.6,
    }
    assert found == {str(folder): wanted for folder in results.values()}


def test_renamed_keys_keep_their_older_name() -> None:
    both = with_both_ages({"model_type": "qwen3_moe", "num_local_experts": 4})
    assert both["num_experts"] == 4
    assert list(disagreements({**both, "num_experts": 128}))


def test_keys_of_both_ages_stand_in_the_files(results: dict[str, Path]) -> None:
    for folder in results.values():
        values = json.loads((folder / "config.json").read_text())
        assert (values["rope_theta"], values["rope_scaling"]) == (500000.0, SCALING)
        assert values["rope_parameters"] == SCALING | {"rope_theta": 500000.0}
        assert (values["torch_dtype"], values["dtype"]) == ("bfloat16", "bfloat16")
        options = json.loads((folder / "tokenizer_config.json").read_text())
        assert options["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert options["additional_special_tokens"] == ["<|user|>"]
        assert not {"extra_special_tokens", "is_local", "local_files_only"} & options.keys()
        assert options["chat_template"] == (folder / "chat_template.jinja").read_text() == TEMPLATE


def test_an_unchanged_tokenizer_is_copied_byte_for_byte_and_terms_come_along(
    base: Path, results: dict[str, Path]
) -> None:
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "LICENSE.txt", "USE_POLICY.md")
    for method in RESULTS:
        assert {name: (results[method] / name).read_bytes() for name in names} == {
            name: (base / name).read_bytes() for name in names
        }
    memory = results["memory"]
    assert json.loads((memory / "tokenizer_config.json").read_text())["model_max_length"] == 77
    assert (memory / "LICENSE.txt").read_bytes() == (base / "LICENSE.txt").read_bytes()


def test_code_is_left_out_and_what_stays_behind_is_named(base: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(base, tmp_path / "other"))
    edit(other / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    edit(other / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tokenization_own.Own"]})
    write(other / "preprocessor_config.json", auto_map={"AutoProcessor": "processing_own.Own"})
    (other / "NOTICE").write_text("Ours.\n")
    output = tmp_path / "output"
    result = qt.quantize(other, "absmax", device="cpu", output=output)
    assert "auto_map" not in (output / "config.json").read_text() + (output / "tokenizer_config.json").read_text()
    assert (output / "NOTICE").is_file() and not (output / "preprocessor_config.json").exists()
    notes = "\n".join(result.report.notes)
    assert "left out of its config, since it fetches or runs code: auto_map" in notes
    assert "left out of tokenizer_config.json, since it fetches or runs code: auto_map" in notes
    assert "left behind, since it names code of the repository: preprocessor_config.json" in notes
    assert not [check for check in check_files(open_artifact(output)) if check.passed is False]


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("config.json", {"rope_theta": 10000.0}, r"rope_theta is 10000\.0, .* 500000\.0 by the newer key"),
        ("config.json", {"rope_scaling": None}, "rope_scaling is None"),
        ("config.json", {"torch_dtype": "float16"}, "torch_dtype is 'float16'"),
        (
            "tokenizer_config.json",
            {"chat_template": "other"},
            "chat_template in tokenizer_config.json are not the same",
        ),
    ],
)
def test_verify_finds_ages_that_disagree(
    results: dict[str, Path], tmp_path: Path, file: str, changes: dict[str, object], said: str
) -> None:
    folder = Path(shutil.copytree(results["absmax"], tmp_path / "changed"))
    assert check_config(open_artifact(folder)).passed
    edit(folder / file, **changes)
    check = check_config(open_artifact(folder))
    assert check.passed is False
    assert re.search(said, check.value)


def test_verify_tells_what_an_older_result_lacks_and_passes_it(results: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(results["absmax"], tmp_path / "older"))
    values = json.loads((folder / "config.json").read_text())
    write(
        folder / "config.json",
        **{key: value for key, value in values.items() if key not in ("rope_theta", "torch_dtype")},
    )
    check = check_config(open_artifact(folder))
    assert (check.passed, check.note) == (
        True,
        "without torch_dtype, rope_theta: transformers 4 takes its own defaults",
    )


def test_several_templates_are_all_found_again(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    result = qt.quantize(base, "absmax", device="cpu")
    several = {"default": TEMPLATE, "tool_use": "tools!"}
    result.tokenizer.chat_template = several
    result.save(tmp_path / "output")
    assert AutoTokenizer.from_pretrained(tmp_path / "output").chat_template == several
    assert all(file.is_file() for file in (tmp_path / "output").iterdir())


def test_names_of_the_weight_file_are_not_carried_over(base: Path, tmp_path: Path, results: dict[str, Path]) -> None:
    old = Path(shutil.copytree(results["gptq"], tmp_path / "old"))
    (old / "qtoolkit.json").unlink()
    (old / "model.safetensors").rename(old / "gptq_model-4bit.safetensors")
    for file, values in (
        (name, json.loads((old / name).read_text())) for name in ("config.json", "quantize_config.json")
    ):
        part = values.get("quantization_config", values)
        part |= {"model_file_base_name": "gptq_model-4bit", "model_name_or_path": "/home/somebody/model"}
        write(old / file, **values)
    qt.load(old, device="cpu").save(tmp_path / "again")
    for file in ("config.json", "quantize_config.json"):
        text = (tmp_path / "again" / file).read_text()
        assert "model_file_base_name" not in text and "somebody" not in text
    assert isinstance(qt.load(tmp_path / "again", device="cpu"), qt.QuantizedModel)
