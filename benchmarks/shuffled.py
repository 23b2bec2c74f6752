"""Make the same model with other neighbours: inputs of layers in random order, which changes nothing it computes.

Models that packages bring were expanded from `.gguf` files. Their weights lie on the grids of that file's blocks of 32
neighbours, which types of the same blocks then store almost without loss: on SmolLM2-135M, of a file in Q4_1, Q4_1 has
a relative squared error of 2e-6 and Q4_K of 3e-4, where on other weights both have some 5e-3. Shuffled, neighbours come
from different blocks, and no program finds the old grids again.

The hidden states, the inner states of each MLP and the values of each head are put in random order: columns of one
weight and the rows or columns of all that meet them. For the architectures of Llama and Gemma 3.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def write_shuffled(folder: Path, output: Path) -> None:
    """Write a Llama or Gemma 3 with its states in random order (seed 0), and its tokenizer."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    if model.config.model_type not in ("llama", "gemma3_text") or not model.config.tie_word_embeddings:
        raise ValueError(f"only Llama and Gemma 3 with tied embeddings are shuffled, not {model.config.model_type}")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        _shuffle(model, generator)
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(folder).save_pretrained(output)


def _shuffle(model: Any, generator: torch.Generator) -> None:
    config, body = model.config, model.model
    states = torch.randperm(config.hidden_size, generator=generator)
    size = config.head_dim
    shared = config.num_attention_heads // config.num_key_value_heads  # heads of q that read the same values
    body.embed_tokens.weight.data = body.embed_tokens.weight[:, states]
    body.norm.weight.data = body.norm.weight[states]
    for layer in body.layers:
        attention, mlp = layer.self_attn, layer.mlp
        values = [torch.randperm(size, generator=generator) for _ in range(config.num_key_value_heads)]
        rows = torch.cat([head * size + order for head, order in enumerate(values)])
        heads = range(config.num_attention_heads)
        columns = torch.cat([head * size + values[head // shared] for head in heads])
        inner = torch.randperm(config.intermediate_size, generator=generator)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            linear.weight.data = linear.weight[:, states]
        attention.v_proj.weight.data = attention.v_proj.weight[rows]
        attention.o_proj.weight.data = attention.o_proj.weight[states][:, columns]
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight.data = linear.weight[inner]
        mlp.down_proj.weight.data = mlp.down_proj.weight[states][:, inner]
        # Gemma 3 has two more; those of queries and keys are of heads, whose order stays.
        for name, norm in layer.named_children():
            if name.endswith("layernorm"):
                norm.weight.data = norm.weight[states]
