"""The package compressed-tensors packs as we do, and transformers reads with it what we write, without qtoolkit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.formats.compressed_tensors.tensors import pack_columns, unpack_columns
from tests.methods.gptq.jobs import gptq
from tests.sample_models import plain_logits, random_model

pytestmark = pytest.mark.slow

pytest.importorskip("compressed_tensors")
# Text that the model writes itself.
WRITTEN: dict[str, Any] = {"calibration": "self", "num_samples": 4, "seq_len": 32}
TOKENS = torch.arange(2, 34).reshape(1, 32)
READ = """
import sys; sys.modules['qtoolkit'] = None
import torch, transformers
from safetensors.torch import save_file
for folder in sys.argv[1:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with torch.no_grad():
        logits = model(torch.arange(2, 34).reshape(1, 32)).logits
    layer = model.model.layers[0].mlp.down_proj
    assert type(layer) is torch.nn.Linear or layer.quantization_scheme is not None
    save_file({"logits": logits, "weight": layer.weight}, folder + "/read")
"""


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("count", [96, 37])
def test_packed_as_the_package_packs(bits: int, count: int) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

    codes = torch.randint(2**bits, (count, 5), dtype=torch.uint8)
    signed = (codes.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)
    theirs = pack_to_int32(signed, bits, packed_dim=0)
    assert torch.equal(pack_columns(codes, bits), theirs)
    assert torch.equal(unpack_columns(theirs, bits, count), codes)
    assert torch.equal(unpack_from_int32(pack_columns(codes, bits), bits, signed.shape, packed_dim=0), signed)


def test_transformers_reads_every_width(tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {f"bits_{bits}": {"bits": bits} for bits in (2, 3, 4, 5, 6, 8)}
    changes["asym"] = {"sym": False}
    changes["channels"] = {"group_size": -1}
    changes["mixed"] = {"rules": {"*.down_proj": {"bits": 8}, "*.0.self_attn.q_proj": {"bits": 5}}}
    changes["left"] = {"exclude": ("lm_head", "*.k_proj")}
    results = {}
    for name, options in changes.items():
        model = random_model("llama_tied" if name == "asym" else "qwen2")
        config = gptq(format="compressed-tensors", **WRITTEN, **options)
        results[name] = qt.quantize(model, config, device="cpu")
        results[name].save(tmp_path / name)
    subprocess.run([sys.executable, "-c", READ, *(str(tmp_path / name) for name in results)], check=True)
    for name, result in results.items():
        read = load_file(tmp_path / name / "read")
        expected = plain_logits(result.model, TOKENS).float()
        assert (read["logits"].float() - expected).norm() <= 0.01 * expected.norm(), name
        weight = result.model.model.layers[0].mlp.down_proj.dequantize()
        # Theirs is rounded to bfloat16.
        torch.testing.assert_close(read["weight"].float(), weight, rtol=2**-8, atol=0)
