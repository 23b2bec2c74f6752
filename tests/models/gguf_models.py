"""A small `.gguf` file: SmolLM2's takes half a minute to expand."""

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

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
