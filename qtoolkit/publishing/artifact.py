"""A folder with a saved model, as it is found."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtoolkit.errors import CheckpointError, ModelNotFoundError, oneline
from qtoolkit.files import path_of, read_json
from qtoolkit.publishing.receipt import read_receipt
from qtoolkit.records import Receipt

# Kept by git and by downloads beside the files; no part of the model.
_NOT_PART = (".git", ".cache")


@dataclass(frozen=True)
class Artifact:
    """A folder that is looked at.

    Attributes:
        path: the folder.
        names: its files, those of folders in it as "folder/name", sorted.
        config: what `config.json` says; empty where it cannot be read.
        receipt: what was written down when it was made; None where there is nothing, or nothing that can be read.
        receipt_error: why the receipt cannot be read; empty otherwise.
    """

    path: Path
    names: tuple[str, ...]
    config: dict[str, Any]
    receipt: Receipt | None
    receipt_error: str = ""

    @property
    def weight_files(self) -> tuple[str, ...]:
        """The safetensors files beside the config."""
        return tuple(name for name in self.names if name.endswith(".safetensors") and "/" not in name)

    @property
    def quant_method(self) -> str | None:
        """The `quant_method` of its config: "bitsandbytes", "gptq", "qtoolkit"; None in full precision."""
        values = self.config.get("quantization_config")
        found = values.get("quant_method") if isinstance(values, dict) else None
        return found if isinstance(found, str) else None


def open_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Look at a folder.

    Raises:
        ConfigError: a path that cannot be one.
        ModelNotFoundError: there is no such folder, or no model in it.
    """
    folder = path_of(path, "path")
    # os.path, since Path raises on a name that is too long.
    if not os.path.isdir(folder):  # noqa: PTH112
        kind = "is no folder" if os.path.exists(folder) else "does not exist"  # noqa: PTH110
        raise ModelNotFoundError(
            f"{os.fspath(path)!r} {kind}: name a folder with a saved model; of a Hub model, the one that "
            "`hf download org/name --local-dir FOLDER` makes"
        )
    names = tuple(file_names(folder))
    if not any(name == "config.json" or name.endswith(".safetensors") for name in names):
        raise ModelNotFoundError(f"{folder} holds no model: name a folder that qt.quantize or save_pretrained wrote")
    receipt, problem = None, ""
    try:
        receipt = read_receipt(folder)
    except CheckpointError as error:
        problem = oneline(error)
    return Artifact(folder, names, read_json(folder / "config.json"), receipt, problem)


def file_names(folder: Path) -> list[str]:
    """The files of a folder and of folders in it, as "folder/name", sorted, without what is no part of a model."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _NOT_PART]
        inside = Path(place).relative_to(folder)
        found.extend((inside / name).as_posix() for name in files)
    return sorted(found)
