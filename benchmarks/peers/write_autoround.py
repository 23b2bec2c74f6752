"""Quantize a folder with AutoRound into GPTQ's format: MODEL OUTPUT TOKENS.json OPTIONS.json, its own arguments."""

import json
import sys
from pathlib import Path

import torch
from auto_round import AutoRound
from report import finished, started
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(model: str, output: str, tokens: str, options: str) -> None:
    """Quantize, and say what it took."""
    rows = torch.tensor(json.loads(Path(tokens).read_text(encoding="utf-8")))  # int64 [samples, seq_len]
    samples = [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in rows]
    begin = started()
    opened = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    rounder = AutoRound(
        opened,
        tokenizer=AutoTokenizer.from_pretrained(model),
        dataset=samples,
        nsamples=rows.shape[0],
        seqlen=rows.shape[1],
        device_map="cpu",
        **json.loads(options),
    )
    rounder.quantize_and_save(output, format="auto_gptq")
    finished(begin)


main(*sys.argv[1:])
