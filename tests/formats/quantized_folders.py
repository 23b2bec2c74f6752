"""Write a checkpoint as another program leaves it, and see in which line `qtoolkit.load` refuses one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import qtoolkit as qt
from qtoolkit.errors import SourceError


def write(folder: Path, tensors: dict[str, torch.Tensor], quantization: dict[str, Any]) -> None:
    """Write the weights, and what `config.json` says of them."""
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))


def refusal(folder: Path, error: type[SourceError] = SourceError) -> str:
    """The one line in which a folder is refused."""
    with pytest.raises(error) as caught:
        qt.load(folder, device="cpu")
    text = str(caught.value)
    assert "\n" not in text
    return text
