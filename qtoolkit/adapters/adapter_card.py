"""Write the card of an adapter: what it belongs to, how it was computed, what was measured and checked."""

import json
from collections.abc import Iterable

from qtoolkit.adapters.adapter_reading import Adapter
from qtoolkit.records import AdapterReceipt, Verification
from qtoolkit.records.markdown import escaped, table

_LOADED_BY_PEFT = """```python
import qtoolkit as qt
from peft import PeftModel

q = qt.load({base})
model = PeftModel.from_pretrained(q.model, {repo_id})
```
"""
_LOADED_BY_FILE = """```bash
llama-cli -m MODEL.gguf --lora {file}
```
"""


def adapter_card(
    adapter: Adapter,
    receipt: AdapterReceipt | None,
    verification: Verification,
    *,
    repo_id: str,
    base_model: str,
    license: str,
    files: Iterable[str],
) -> str:
    """Return the text of a card, whose metadata name the base, the relation to it and peft.

    Args:
        adapter: the adapter.
        receipt: of it; None for one that was trained.
        verification: its checks.
        repo_id: where it is published.
        base_model: where the quantized model is published.
        license: of both.
        files: names of the files that are published.
    """
    repairs = "repairs" if receipt is not None else "was trained on"
    ranks = sorted({change.rank for change in adapter.changes.values()})
    rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    metadata = {
        "base_model": base_model,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": license,
        "pipeline_tag": "text-generation",
        "tags": ["lora", "qtoolkit"],
    }
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in metadata.items())
    link = f"[{escaped(base_model)}](https://huggingface.co/{base_model})"
    told = f"A LoRA adapter of rank {rank} on {len(adapter.changes)} layers, which {repairs} {link}."
    lines = [
        f"---\n{head}\n---\n\n# {escaped(repo_id.rpartition('/')[2])}\n",
        f"{told} It belongs to that quantized model alone.\n",
        "## How to load it\n",
        _LOADED_BY_PEFT.format(base=repr(base_model), repo_id=repr(repo_id)),
    ]
    lines += [_LOADED_BY_FILE.format(file=name) for name in files if name.endswith(".gguf")]
    if receipt is None:
        lines.append("How it was trained is not known here.\n")
    else:
        rows = [row for row in receipt.repair.rows() if row.value]
        lines += ["## What was done and measured\n", table(("", "", ""), rows) + "\n"]
        made = ", ".join(f"{name} {version}" for name, version in receipt.versions.items())
        lines.append(f"Computed on {escaped(receipt.hardware)}, with {escaped(made)}.\n")
    checks = table(("check", "result", "seen"), (row for check in verification.checks for row in check.rows()))
    lines += [
        "## How it was verified\n",
        "Base and adapter together, by `qt.verify(adapter, base=model)` before it was published:\n",
        checks + "\n",
    ]
    return "\n".join(lines)
