"""A folder with a saved model, as it is found."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qtoolkit.errors import CheckpointError, ModelNotFoundError, oneline, printable
from qtoolkit.files import path_of, read_json
from qtoolkit.partial import put_back
from qtoolkit.publishing.listing import list_folder
from qtoolkit.publishing.receipt_file import read_receipt
from qtoolkit.records import Receipt


@dataclass(frozen=True)
class Artifact:
    """A folder that is looked at.

    Attributes:
        path: the folder.
        names: its files, those of folders in it as "folder/name", sorted.
        config: what `config.json` says; empty where it cannot be read.
        receipt: what was written down when it was made; None where there is nothing, or nothing that can be read.
        receipt_error: why the receipt cannot be read; empty otherwise.
        outside: those of its files that are links out of the folder.
        odd: what else lies there -> what it is, "is a named pipe"; it is never opened.
    """

    path: Path
    names: tuple[str, ...]
    config: dict[str, Any]
    receipt: Receipt | None
    receipt_error: str = ""
    outside: tuple[str, ...] = ()
    odd: Mapping[str, str] = field(default_factory=dict)

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
    folder = _folder(path)
    found = list_folder(folder)
    if not any(name == "config.json" or name.endswith(".safetensors") for name in (*found.names, *found.odd)):
        shown = printable(str(folder))
        raise ModelNotFoundError(f"{shown} holds no model: name a folder that qt.quantize or save_pretrained wrote")
    receipt, problem = None, ""
    try:
        receipt = read_receipt(folder)
    except CheckpointError as error:
        problem = oneline(error)
    config = read_json(folder / "config.json")
    return Artifact(folder, found.names, config, receipt, problem, found.outside, found.odd)


def _folder(path: str | os.PathLike[str]) -> Path:
    """The folder of that name, from the root of the disk.

    Raises:
        ModelNotFoundError: there is none.
    """
    folder = path_of(path, "path")
    put_back(folder)
    if folder.is_dir():
        return folder
    kind = "is no folder" if folder.exists() else "does not exist"
    raise ModelNotFoundError(
        f"{os.fspath(path)!r} {kind}: name a folder with a saved model; of a Hub model, the one that "
        "`hf download org/name --local-dir FOLDER` makes"
    )
