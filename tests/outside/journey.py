"""From plan to card, in a process of its own: what a plugin's person would do, and what they see.

`python journey.py` imports what every journey needs of others' packages, which takes seconds, and forks a process for
each line that it reads: JSON with `site`, `base`, `method`, `options`, `output`, `repo`, `token`, `answer` and `log`.
It answers with the code by which that process ended. qtoolkit is imported by each, with its plugin to be found.
"""

import importlib
import json
import os
import sys
import traceback
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import torch
from IPython.core.interactiveshell import InteractiveShell
from safetensors.torch import load_file
from traitlets.config import Config

# What a journey imports of other packages, beside the above.
OTHERS = ("ipywidgets", "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama")
TOKENS = torch.arange(2, 18).reshape(1, 16)


def journey(asked: dict[str, Any]) -> None:
    import qtoolkit as qt
    from qtoolkit.methods import config_class
    from qtoolkit.notebook.panels.config_form import ConfigForm

    base, method, options, output = (asked[name] for name in ("base", "method", "options", "output"))
    config = config_class(method).from_dict(options)
    planned = qt.plan(base, config, device="cpu")

    form = ConfigForm(lambda: None)
    form.method.value = method
    for name, value in options.items():
        form.options[name].value = value if form.options[name].value.__class__ is type(value) else str(value)
    assert set(form.options) <= {field.name for field in fields(config)}
    assert form.config == config, form.config

    off = Config()
    off.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=off)
    shell.run_line_magic("load_ext", "qtoolkit")
    shell.run_line_magic("config", "QuantizeMagics.progress = 'none'")
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    shell.run_line_magic("quantize", f"{base} --method {method} {flags} --device cpu --into q --output {output}")
    quantized, loaded = shell.user_ns["q"], qt.load(output, device="cpu")
    with torch.no_grad():
        logits, again = quantized.model(TOKENS).logits, loaded.model(TOKENS).logits
    verification = qt.verify(output)
    card = qt.publish(output, asked["repo"], token=asked["token"]).card
    with torch.no_grad():
        pulled = qt.load(asked["repo"], device="cpu", token=asked["token"]).model(TOKENS).logits
    loaded.save(f"{output}-again")
    saved = [Path(output), Path(f"{output}-again")]
    before, after = quantized.memory, loaded.memory
    footprints = (planned.footprint_after, before.footprint_after, after.predicted_footprint_after)
    stored = sum(tensor.nbytes for tensor in load_file(saved[0] / "model.safetensors").values())
    answer = {
        "config": type(config).__name__,
        "same_logits": torch.equal(logits, again) and torch.equal(logits, pulled),
        "same_file": saved[0].joinpath("model.safetensors").read_bytes()
        == saved[1].joinpath("model.safetensors").read_bytes(),
        "same_names": sorted(file.name for file in saved[0].iterdir())
        == sorted(file.name for file in saved[1].iterdir()),
        "footprints": [*footprints, after.footprint_after],
        "disk": [planned.disk_after, stored],
        "loaded": loaded.config == config,
        "failed": [str(check) for check in verification.checks if check.passed is False],
        "unknown": [check.name for check in verification.checks if check.passed is None],
        "layers": sorted({type(module).__name__ for module in loaded.model.modules()}),
        "buffers": sorted({name.rpartition(".")[2] for name, _ in loaded.model.named_buffers()}),
        "card": card,
    }
    Path(asked["answer"]).write_text(json.dumps(answer))


def serve() -> None:
    for module in OTHERS:
        importlib.import_module(module)
    for line in sys.stdin:
        process = os.fork()
        if not process:
            run(json.loads(line))
        _, status = os.waitpid(process, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def run(asked: dict[str, Any]) -> NoReturn:
    """Run one journey in a forked process; what it prints goes to a file."""
    with Path(asked["log"]).open("w") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
        sys.path.insert(0, asked["site"])
        # Processes that this one starts find the plugin too.
        os.environ["PYTHONPATH"] = os.pathsep.join((asked["site"], os.environ["PYTHONPATH"]))
        code = 1
        try:
            journey(asked)
            code = 0
        except BaseException:  # noqa: BLE001  # the log has it, and the loop of `serve` is the parent's alone
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)


if __name__ == "__main__":
    serve()
