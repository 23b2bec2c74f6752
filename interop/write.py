"""Write small GPTQ checkpoints of every kind, each with inputs and the logits that qtoolkit computes from it.

Run `python interop/write.py FOLDER`. `interop/read_*.py` load them with other readers, in environments of their own.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from common import CLAIMS, KINDS, keep, random_llama, tokenizer_facts
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import qtoolkit as qt
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.contract_check import stored_in
from qtoolkit.readers import readers_of

TEMPLATE = "{% for message in messages %}{{ message['content'] }} </s> {% endfor %}"

MADE = {
    f"{name}-{checkpoint_format}": {**kind, "checkpoint_format": checkpoint_format}
    for name, kind in KINDS.items()
    for checkpoint_format in ("gptq", "gptq_v2")
}
MADE["4bit-one-group"] = {"group_size": -1}
MADE["4bit-mixed"] = {"rules": {"*.down_proj": {"bits": 8}, "*.v_proj": {"bits": 2}, "*.1.*.q_proj": {"bits": 3}}}
MADE["4bit-some-left"] = {"exclude": ("lm_head", "layers.0.mlp.down_proj", "o_proj")}
# Those that go through another format and back.
CONVERTED = ("4bit-sym-static", "3bit-asym-static")


def numbers() -> PreTrainedTokenizerFast:
    """A tokenizer of numbers, since gptqmodel's own loader asks for one."""
    words = {str(token): token for token in range(256) if token not in (0, 2)} | {"<unk>": 0, "</s>": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")  # noqa: S106
    made.chat_template = TEMPLATE
    return made


def claim(folder: Path, tokenizer: Any, of: Path | None = None, only: tuple[str, ...] = (), **changes: Any) -> None:
    """Keep what the reader contract says of a checkpoint, and its tokenizer if it has one, beside it.

    It is stored as its config and tensors say; or, of one whose config lies, as those of `of`, with changes, for the
    readers that see no more than that: `only` these.
    """
    stored = stored_in(open_artifact(of or folder))
    assert stored is not None
    stored = replace(stored, **changes)
    claims = {
        "stored": asdict(stored),
        "readers": {one.reader: one.loads for one in readers_of(stored) if one.reader in only or not only},
        "tokenizer": tokenizer and tokenizer_facts(tokenizer),
    }
    (folder / CLAIMS).write_text(json.dumps(claims))


def check_signs(folder: Path) -> None:
    """Readers are to see scales of either sign, which symmetric codes have."""
    tensors = load_file(folder / "model.safetensors")
    negative = torch.cat([tensor.flatten() < 0 for key, tensor in tensors.items() if key.endswith(".scales")])
    if not 0.1 < negative.float().mean() < 0.9:
        sys.exit(f"{folder.name}: {negative.sum()} of {len(negative)} scales are negative")


def main(folder: Path) -> None:
    """Write all kinds."""
    for name, changes in MADE.items():
        options = {"group_size": 32, "calibration": "self", "num_samples": 8, "seq_len": 64} | changes
        method, model = qt.GPTQ(**options), random_llama(dtype=torch.float16)
        qt.quantize(model, method, output=folder / name, overwrite=True, device="cpu", tokenizer=numbers())
        if options.get("sym", True):
            check_signs(folder / name)
        claim(folder / name, numbers())
        # In float32 a layer multiplies with its exact weight, for whatever number of tokens.
        keep(qt.load(folder / name, device="cpu", dtype="float32").model, folder / name)
    for name in CONVERTED:
        # There and back: what the other format does not keep would be missing here.
        between, back = folder / "between", folder / f"{name}-converted"
        qt.convert(folder / f"{name}-gptq", "compressed-tensors", between, overwrite=True)
        qt.convert(between, "gptq", back, overwrite=True)
        claim(back, numbers())
        keep(qt.load(back, device="cpu", dtype="float32").model, back)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
