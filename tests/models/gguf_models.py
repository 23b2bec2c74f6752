"""A small `.gguf` file: SmolLM2's takes half a minute to expand."""

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

HIDDEN, INNER, LAYERS, HEADS, VOCABULARY = 64, 128, 2, 4, 300


def write_gguf(path: Path, seed: int = 0) -> dict[str, npt.NDArray[np.float16]]:
    """Write a random 2-layer Llama in float16 with a tied head and a tokenizer; its weights by name."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    letters = [chr(code) for code in range(256, 254 + VOCABULARY)]
    merges = [(letters[0], letters[1]), (letters[1], letters[2])]
    writer.add_token_list([*letters, *("".join(pair) for pair in merges)])
    writer.add_token_types([gguf.TokenType.NORMAL] * VOCABULARY)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (VOCABULARY, HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        names: dict[str, tuple[int, ...]] = {f"attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")}
        names |= {"ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER)}
        names |= {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in names.items()}
    weights = {f"{name}.weight": random.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def write_types(path: Path, names: list[str]) -> set[str]:
    """Write a Llama of matrices of 256 x 256 with random blocks of these types in turn; the types that were used."""
    hidden, layers = 256, -(-max(2, len(names) - 2) // 7)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(hidden)
    matrices = ["token_embd", "output"]
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    matrices += [f"blk.{layer}.{part}" for layer in range(layers) for part in parts]
    random = np.random.default_rng(0)
    used = set()
    for index, name in enumerate(matrices):
        kind = gguf.GGMLQuantizationType[names[index % len(names)]]
        writer.add_tensor(f"{name}.weight", finite_blocks(kind, hidden, random), raw_dtype=kind)
        used.add(kind.name)
    for name in ["output_norm", *(f"blk.{layer}.{norm}_norm" for layer in range(layers) for norm in ("attn", "ffn"))]:
        writer.add_tensor(f"{name}.weight", random.normal(size=hidden).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return used


def write_nemotron(path: Path, model: PreTrainedModel) -> None:
    """Write a Nemotron in float32, of which qtoolkit writes no files: by the names of the `gguf` package."""
    config = model.config
    writer = gguf.GGUFWriter(path, "nemotron")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.NEMOTRON, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        # llama.cpp adds the one that the model adds to the weights of its norms.
        stored = weight.float() + 1 if name.endswith("norm.weight") else weight.float()
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), stored.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def finite_blocks(kind: gguf.GGMLQuantizationType, side: int, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Random bytes of a square matrix of a type, none of whose blocks has a scale beyond what weights have."""
    size, nbytes = gguf.GGML_QUANT_SIZES[kind]
    wanted = side * side // size
    found = np.empty((0, nbytes), dtype=np.uint8)
    while len(found) < wanted:
        blocks = random.integers(0, 256, (wanted, nbytes), dtype=np.uint8)
        with np.errstate(all="ignore"):
            values = gguf.dequantize(blocks, kind)
            found = np.concatenate([found, blocks[(np.abs(values) < 100).all(1)]])
    return found[:wanted].reshape(side, -1)  # [blocks, bytes of a block] -> [rows, bytes of a row]


def split(whole: Path, folder: Path, count: int) -> None:
    """Split a file as llama-gguf-split does: the values in the first part, and the tensors in turn."""
    folder.mkdir(exist_ok=True)
    reader = gguf.GGUFReader(whole)
    each = -(-len(reader.tensors) // count)
    for part in range(count):
        name = folder / f"{whole.stem}-{part + 1:05d}-of-{count:05d}.gguf"
        writer = gguf.GGUFWriter(name, reader.fields["general.architecture"].contents())
        for key, field in reader.fields.items():
            if part == 0 and not key.startswith("GGUF.") and key != "general.architecture":
                kind = field.types[0]
                inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(key, field.contents(), kind, sub_type=inner)
        writer.add_uint16("split.no", part)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[part * each : (part + 1) * each]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
