"""The conformance matrix: every method with its main options, on small models whose weights any machine makes alike."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import qtoolkit as qt
from tests.sample_models import ARCHITECTURES, MORE_ARCHITECTURES, random_model

# 256 bytes, then tokens that no text holds.
_SPECIAL = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}
_VOCAB_SIZE = 288
TEXTS = [
    " ".join(f"The {noun} of the {place} was {verb} by {count} others." for count in range(2, 20))
    for noun, place, verb in [("bridge", "old town", "followed"), ("queen", "northern sea", "remembered")]
]
_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


def gptq(**changes: Any) -> qt.GPTQ:
    """A config whose job takes less than a second."""
    options: dict[str, Any] = {"calibration": TEXTS, "num_samples": 4, "seq_len": 32, "group_size": 32}
    # What each of these gives has cases of its own.
    options |= {"full_range": False, "refine": 0, "qep_alpha": 0.0}
    return qt.GPTQ(**options | changes)


_RULES: dict[str, dict[str, Any]] = {"*.down_proj": {"bits": 8}, "*.0.*": {"bits": 8, "granularity": "channel"}}
_EXCLUDE = ("lm_head", "*.o_proj", "layers.1.mlp.up_proj")
CONFIGS: dict[str, Any] = {
    "nf4": qt.NF4(),
    "nf4-single": qt.NF4(double_quant=False),
    "nf4-float32": qt.NF4(compute_dtype="float32"),
    "nf4-exclude": qt.NF4(exclude=_EXCLUDE),
    "nf4-lm_head": qt.NF4(exclude=()),
    "fp4": qt.FP4(),
    "fp4-single": qt.FP4(double_quant=False),
    "int8": qt.Int8(),
    "int8-threshold": qt.Int8(threshold=0.0),
    "int8-exclude": qt.Int8(exclude=_EXCLUDE),
    "int8-lm_head": qt.Int8(exclude=()),
    "absmax": qt.AbsMax(),
    "absmax-channel": qt.AbsMax(granularity="channel"),
    "absmax-group": qt.AbsMax(granularity="group"),
    "absmax-4bit": qt.AbsMax(bits=4),
    "absmax-4bit-channel": qt.AbsMax(bits=4, granularity="channel"),
    "absmax-4bit-group": qt.AbsMax(bits=4, granularity="group", group_size=32),
    "absmax-4bit-group-adjusted": qt.AbsMax(bits=4, granularity="group", group_size=128),
    "absmax-exclude": qt.AbsMax(exclude=_EXCLUDE),
    "absmax-lm_head": qt.AbsMax(exclude=()),
    "absmax-rules": qt.AbsMax(bits=4, granularity="group", rules=_RULES),
    "absmax-full_range": qt.AbsMax(full_range=True),
    "absmax-4bit-group-full_range": qt.AbsMax(bits=4, granularity="group", full_range=True),
    "absmax-target_bits": qt.AbsMax(bits=4, granularity="group", target_bits=6.0),
    "absmax-native": qt.AbsMax(format="native"),
    "absmax-native-4bit-group": qt.AbsMax(bits=4, granularity="group", format="native"),
    "zero_point": qt.ZeroPoint(),
    "zero_point-compressed-tensors": qt.ZeroPoint(bits=4, granularity="group", format="compressed-tensors"),
    "zero_point-channel": qt.ZeroPoint(granularity="channel"),
    "zero_point-group": qt.ZeroPoint(granularity="group"),
    "zero_point-4bit": qt.ZeroPoint(bits=4),
    "zero_point-4bit-channel": qt.ZeroPoint(bits=4, granularity="channel"),
    "zero_point-4bit-group": qt.ZeroPoint(bits=4, granularity="group", group_size=32),
    "zero_point-exclude": qt.ZeroPoint(exclude=_EXCLUDE),
    "zero_point-lm_head": qt.ZeroPoint(exclude=()),
    "zero_point-rules": qt.ZeroPoint(bits=4, granularity="group", rules=_RULES),
    "zero_point-target_size": qt.ZeroPoint(bits=4, granularity="group", target_size=200_000),
    "gptq": gptq(),
    "gptq-2bit": gptq(bits=2),
    "gptq-3bit": gptq(bits=3),
    "gptq-8bit": gptq(bits=8),
    "gptq-one-group": gptq(group_size=-1),
    "gptq-group-adjusted": gptq(group_size=128),
    "gptq-asymmetric": gptq(sym=False),
    "gptq-asymmetric-3bit": gptq(sym=False, bits=3),
    "gptq-asymmetric-8bit": gptq(sym=False, bits=8),
    "gptq-desc_act": gptq(desc_act=True),
    "gptq-desc_act-asymmetric": gptq(desc_act=True, sym=False, bits=3),
    "gptq-natural": gptq(order="natural"),
    "gptq-damp": gptq(damp_percent=0.1),
    "gptq-not-sequential": gptq(true_sequential=False),
    "gptq_v2": gptq(checkpoint_format="gptq_v2"),
    "gptq_v2-asymmetric": gptq(checkpoint_format="gptq_v2", sym=False),
    "gptq-self": gptq(calibration="self"),
    "gptq-exclude": gptq(exclude=_EXCLUDE),
    "gptq-lm_head": gptq(exclude=()),
    "gptq-rules": gptq(rules={"*.q_proj": {"bits": 3}, "*.down_proj": {"bits": 8}}),
    "gptq-rules-unchanged": gptq(rules={"*.down_proj": {"bits": 4}}),
    "gptq-target_bits": gptq(target_bits=4.5),
    "gptq-full_range-2bit": gptq(full_range=True, bits=2),
    "gptq-refine": gptq(refine=2),
    "gptq-refine-asymmetric-3bit": gptq(refine=2, sym=False, bits=3),
    "gptq-qep_alpha": gptq(qep_alpha=0.5),
    "gptq-token_weights": gptq(qep_alpha=0.5, token_weights=True),
    "gptq-all": gptq(full_range=True, refine=2, qep_alpha=0.5),
    "gptq-compressed-tensors": gptq(format="compressed-tensors", bits=5),
    "gptq-compressed-tensors-embeddings": gptq(format="compressed-tensors", embeddings=8),
}
# On a Llama in float32 too, and one of each kind on every other architecture.
_FLOAT32 = ("nf4", "fp4", "int8", "absmax", "absmax-4bit-group", "zero_point-4bit-group", "gptq", "gptq-desc_act")
_EVERYWHERE = ("nf4", "int8", "absmax-4bit-group", "zero_point", "gptq")
_MORE = ("absmax", "gptq")


class Case(NamedTuple):
    """One job.

    Attributes:
        architecture: of `tests.sample_models`.
        dtype: of the base, "bfloat16".
        config: a name of `CONFIGS`.
    """

    architecture: str
    dtype: str
    config: str

    @property
    def name(self) -> str:
        """What the stored results call it."""
        return f"{self.architecture} {self.dtype} {self.config}"

    @property
    def is_told_in_full(self) -> bool:
        """Whether all records are kept: where other methods have the same layers to tell of."""
        return (self.architecture, self.dtype) == ("llama", "bfloat16")

    @property
    def depends_on_sums(self) -> bool:
        """Whether codes follow from sums of floats, which kernels of other processors round otherwise."""
        return CONFIGS[self.config].method == "gptq" or "target" in self.config


def _cases() -> Iterator[Case]:
    yield from (Case("llama", "bfloat16", config) for config in CONFIGS)
    yield from (Case("llama", "float32", config) for config in _FLOAT32)
    others = [name for name in ARCHITECTURES if name != "llama"]
    yield from (Case(name, "bfloat16", config) for name in others for config in _EVERYWHERE)
    yield from (Case(name, "bfloat16", config) for name in MORE_ARCHITECTURES for config in _MORE)


CASES = tuple(_cases())


def write_base(folder: Path, architecture: str, dtype: str) -> Path:
    """Write a small model with a tokenizer, a generation config and a card that names its licence."""
    model = random_model(architecture, getattr(torch, dtype), vocab_size=_VOCAB_SIZE, **_SPECIAL)
    _fill(model)
    model.save_pretrained(folder, max_shard_size="200kB" if architecture == "llama" else "5GB")
    _tokenizer().save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6, "eos_token_id": [257, 0]}')
    (folder / "README.md").write_text(f"---\nlicense: apache-2.0\nlanguage: en\n---\n# {folder.name}\n")
    return folder


def _fill(model: PreTrainedModel) -> None:
    """Give every weight a value that depends on its name alone: torch's own random numbers depend on the processor."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        # Of a PCG64 the raw numbers are promised to stay the same. Sums of eight bytes are nearly normal, and exact.
        raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(tensor.numel())
        sums = raw.view(np.uint8).reshape(-1, 8).sum(axis=1, dtype=np.int64) - 1020
        values = torch.from_numpy(sums).float().div(4096).reshape(tensor.shape)
        tensor.copy_(1 + values if "norm" in name or "ln_" in name else values)


def _tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, with a chat template."""
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=_TEMPLATE, **tokens)
