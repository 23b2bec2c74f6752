"""Write, with whatever qtoolkit is first on the path, what another one has to read: `python make.py FOLDER`.

- `base/`: a random Llama, and `texts.txt`, what is calibrated on;
- `models/`: what `qt.quantize` saved of it, each method with its main options;
- `records.json`: a record of each class that a verb returns;
- `comparison/`, `cache/`: what `qt.compare` and the sensitivity of layers keep for a later call;
- `unfinished/`: what stood at `OUTPUT.partial` when a GPTQ job was killed after its first block;
- `notebook.ipynb.json`: a notebook with its outputs, under a name that nbval does not collect.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import qtoolkit as qt

TEXTS = [
    " ".join(f"The {noun} of the {place} was {verb} by {count} others." for count in range(2, 20))
    for noun, place, verb in [("bridge", "old town", "followed"), ("queen", "northern sea", "remembered")]
]
COMPARED = ("nf4", "absmax-4bit")
# Dies by SIGKILL in the second block, which begins with the eighth layer.
KILLED = """
import os, signal, sys
import qtoolkit as qt
from make import configs

seen = 0
def die(event):
    global seen
    seen += event.phase == "quantize"
    if seen == 10:
        os.kill(os.getpid(), signal.SIGKILL)

qt.quantize("base", configs()["gptq"], output="out", device="cpu", on_progress=die)
"""
CELLS = """
import qtoolkit as qt
%load_ext qtoolkit
---
%qplan base --method nf4 --machine cpu-12gb
---
%quantize base --method nf4 --device cpu --output output/nf4 --into q
---
%qmemory q
---
%qeval q --base base --text texts.txt --seq-len 64 --num-tokens 512 --no-speed
---
%qcompare base --methods nf4,absmax --text texts.txt --seq-len 64 --num-tokens 512 --device cpu --output output/kept
---
report = qt.verify("output/nf4", base="base")
assert not [check for check in report.checks if check.passed is False]
report
---
qt.load("output/nf4", device="cpu").report
"""


def configs() -> dict[str, object]:
    """What is made, by the name of its folder."""
    gptq = {"calibration": TEXTS, "num_samples": 4, "seq_len": 32, "group_size": 32}
    return {
        "nf4": qt.NF4(),
        "fp4": qt.FP4(double_quant=False),
        "int8": qt.Int8(),
        "absmax": qt.AbsMax(granularity="channel"),
        "absmax-4bit": qt.AbsMax(bits=4, granularity="group", group_size=32, exclude=()),
        "absmax-rules": qt.AbsMax(bits=4, granularity="group", rules={"*.down_proj": {"bits": 8}}),
        "zero_point": qt.ZeroPoint(bits=4, granularity="group", group_size=32),
        "gptq": qt.GPTQ(**gptq),
        "gptq-desc_act": qt.GPTQ(**gptq, bits=3, desc_act=True, sym=False),
        "gptq-rules": qt.GPTQ(**gptq, rules={"*.q_proj": {"bits": 3}, "*.down_proj": {"bits": 8}}),
        "gptq_v2": qt.GPTQ(**gptq, checkpoint_format="gptq_v2"),
    }


def make_base(folder: Path) -> None:
    """Write a random Llama with a tokenizer of bytes, a generation config and a card."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 288}
    ids = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}
    config = LlamaConfig(**sizes, **ids, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n")


def make_records(folder: Path) -> None:
    """Write a record of each class."""
    base, nf4 = Path("base"), Path("models/nf4")
    options = {"text": TEXTS, "seq_len": 64, "num_tokens": 512, "device": "cpu"}
    compared = qt.compare(base, [None, *(configs()[name] for name in COMPARED)], **options, output="comparison")
    made = qt.quantize(base, qt.GPTQ(**{**configs()["gptq"].to_dict(), "calibration": TEXTS, "bits": 8}), device="cpu")
    records = [
        qt.plan(base, qt.NF4(), device="cpu", machine="cpu-12gb"),
        qt.plan(LlamaConfig(num_hidden_layers=1), qt.NF4(), machine="t4"),
        made.report,
        qt.evaluate(nf4, base=base, **options, noise_floor=True),
        compared,
        qt.recommend(base, machine="cpu-12gb"),
        qt.verify(nf4, base=base),
        qt.publish(nf4, "someone/nf4", base=base, dry_run=True),
        qt.find_models("base", hub=False),
    ]
    # Its bits are given by the sensitivity that is measured, and kept.
    records.append(qt.plan(base, qt.AbsMax(bits=4, granularity="group", target_bits=6.0), machine="cpu-12gb"))
    (folder / "records.json").write_text(json.dumps([record.to_dict() for record in records], indent=1) + "\n")


def make_unfinished(folder: Path) -> None:
    """Kill a job, and keep what it left."""
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.environ['PYTHONPATH']}"}
    killed = subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    Path("out.partial").rename(folder / "unfinished")
    shutil.rmtree(folder / "unfinished/model", ignore_errors=True)


def make_notebook(folder: Path) -> None:
    """Run a notebook beside the base, and keep it with its outputs."""
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS.split("---\n")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, store_widget_state=False, record_timing=False, timeout=600).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(notebook, str(folder / "notebook.ipynb.json"))
    shutil.rmtree("output")


def main(folder: Path) -> None:
    """Make all of it."""
    folder.mkdir(parents=True)
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    make_base(folder / "base")
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    for name, config in configs().items():
        qt.quantize("base", config, device="cpu", output=f"models/{name}")
    make_records(folder)
    make_unfinished(folder)
    make_notebook(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
