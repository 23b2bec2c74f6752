"""Whatever stands in the JSON files of a model, a verb works or ends in one line."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import qtoolkit as qt
from tests.fuzz.conftest import TOKENIZER, changing
from tests.fuzz.mutations import FACTOR, as_json, edges, ends_well, examples, mutated

pytestmark = pytest.mark.slow

# Each is imported when it is first drawn.
TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) if FACTOR > 1 else ["gpt2", "qwen2", "mixtral", "gemma3_text", "opt"]
KEYS = (
    *(
        "num_labels",
        "layer_types",
        "head_dim",
        "text_config",
        "quantization_config",
        "_attn_implementation",
        "id2label",
    ),
    *("rope_scaling", "rope_parameters", "sliding_window", "num_experts", "per_layer_config", "auto_map", "is_decoder"),
    *("configuration_files", "_experts_implementation", "torch_dtype", "pruned_heads", "max_position_embeddings"),
    *("n_positions", "n_layer", "n_embd", "num_local_experts", "num_nextn_predict_layers", "mlp_layer_types"),
)
VALUES = (
    *("org/kernel", "flash_attention_2", {"quant_method": "gptq", "bits": 4}, {"quant_method": "bitsandbytes"}, "gptq"),
    *({"num_hidden_layers": 10**9}, {"rope_type": "yarn", "factor": 1e9}, {"AutoConfig": "x.X"}, ["config.4.0.0.json"]),
)
changed = contextmanager(changing)


@examples(200)
@given(data=st.data())
def test_a_config(folder: Path, data: st.DataObject) -> None:
    values = json.loads((folder / "config.json").read_text())
    lying = data.draw(mutated(values, KEYS, VALUES))
    if isinstance(lying, dict) and data.draw(st.integers(0, 3)) == 0:
        lying["model_type"], lying["architectures"] = data.draw(st.sampled_from(TYPES)), None
    with changed(folder) as files:
        files.write("config.json", as_json(lying))
        ends_well(lambda: qt.plan(folder, "absmax", machine="t4"))


@examples(40)
@given(data=st.data())
def test_a_config_alone(folder: Path, data: st.DataObject) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    names = sorted(set(config.to_dict()) - {"num_labels", "id2label", "label2id"})
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(names))
        value = data.draw(edges())
        try:
            setattr(config, name, value)
        except Exception:  # noqa: BLE001  # transformers checks some
            return
    ends_well(lambda: qt.plan(config, "absmax", machine="t4"))


@examples(110)
@given(data=st.data())
def test_a_config_of_a_quantized_model(quantized: Path, data: st.DataObject) -> None:
    values = json.loads((quantized / "config.json").read_text())
    values["quantization_config"] = data.draw(
        mutated(values["quantization_config"], ("quant_method", "layers", "method", "options")) | edges(*VALUES)
    )
    with changed(quantized) as files:
        files.write("config.json", as_json(values))
        ends_well(lambda: qt.load(quantized))


@examples(100)
@given(values=mutated({"eos_token_id": 2, "pad_token_id": 0, "max_length": 20, "do_sample": True, "top_k": 5}))
def test_a_generation_config(folder: Path, values: Any) -> None:
    with changed(folder) as files:
        files.write("generation_config.json", as_json(values))
        ends_well(lambda: qt.plan(folder, "absmax", machine="t4"))


@examples(100)
@given(values=mutated({"metadata": {"total_size": 1}, "weight_map": {"a": "model.safetensors", "b": "x"}}))
def test_an_index(folder: Path, values: Any) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    with changed(folder) as files:
        files.write("model.safetensors.index.json", as_json(values))
        (folder / "model.safetensors").unlink()
        try:
            ends_well(lambda: qt.plan(folder, "absmax", machine="t4"))
        finally:
            (folder / "model.safetensors").write_bytes(weights)


@examples(130)
@given(tokenizer=mutated(TOKENIZER), settings=mutated({"tokenizer_class": "PreTrainedTokenizerFast"}, ("auto_map",)))
def test_a_tokenizer(folder: Path, tokenizer: Any, settings: Any) -> None:
    with changed(folder) as files:
        files.write("tokenizer.json", as_json(tokenizer))
        if hash(str(settings)) % 4 == 0:
            files.write("tokenizer_config.json", as_json(settings))
        ends_well(lambda: qt.quantize(folder, "absmax"))
