"""Open a folder with a saved model: list its files, and read its config, receipt, card and tensor headers once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qtoolkit.checkpoints.safetensors import StoredTensor, read_tensors
from qtoolkit.errors import CheckpointError, ModelNotFoundError, QToolkitError, oneline, printable
from qtoolkit.files import path_of, read_json
from qtoolkit.formats import FileFormat, Format, format_of
from qtoolkit.hub.licenses import read_card
from qtoolkit.partial import put_back
from qtoolkit.publishing.listing import list_folder
from qtoolkit.publishing.receipt_file import bytes_by_dtype, read_receipt, receipts_beside
from qtoolkit.readers import asks_for_first_values
from qtoolkit.records import Receipt

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


class Headers(NamedTuple):
    """What the headers of all weight files say.

    Attributes:
        tensors: every tensor as (file, name, tensor), without its values; those of sound files.
        errors: why the headers of the other files are refused.
    """

    tensors: list[tuple[str, str, StoredTensor]]
    errors: list[QToolkitError]


@dataclass(frozen=True)
class Artifact:
    """A folder with a saved model that is checked or published.

    Attributes:
        path: the folder.
        names: its regular files, those in subfolders as "folder/name", sorted.
        config: the values of `config.json`; empty where it cannot be read.
        receipt: the record that the job wrote beside the weights; None where there is none, or none that can be read.
        receipt_error: why the receipt cannot be read; empty otherwise.
        outside: those of its files that are links out of the folder.
        odd: every other entry -> what it is, for example "is a named pipe"; such an entry is never opened.
        beside: receipts of models that are one file each and stand beside this one, by the receipt's name.
    """

    path: Path
    names: tuple[str, ...]
    config: dict[str, Any]
    receipt: Receipt | None
    receipt_error: str = ""
    outside: tuple[str, ...] = ()
    odd: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, Receipt] = field(default_factory=dict)

    @property
    def weight_bytes(self) -> int:
        """The bytes of its weight files."""
        return sum((self.path / name).stat().st_size for name in self.weight_files)

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Names of the weight files beside the config: safetensors files, or the one file of a format that has one."""
        if isinstance(self.format, FileFormat):
            name = self.format.file_name(self.quantization or {})
            return (name,) if name in self.names and name.endswith(self.format.suffix) and "/" not in name else ()
        return tuple(name for name in self.names if name.endswith(".safetensors") and "/" not in name)

    @cached_property
    def headers(self) -> Headers:
        """The headers of its safetensors files, read once."""
        tensors = []
        errors = []
        for file in () if isinstance(self.format, FileFormat) else self.weight_files:
            try:
                tensors += [(file, name, tensor) for name, tensor in read_tensors(self.path / file).items()]
            except QToolkitError as error:
                errors.append(error)
        return Headers(tensors, errors)

    @cached_property
    def bytes_by_type(self) -> Mapping[str, int]:
        """The bytes of the tensors of each type, in all weight files.

        Raises:
            QToolkitError: the header of one is refused.
        """
        if isinstance(self.format, FileFormat):
            sizes = [self.format.bytes_by_type(self.path / file) for file in self.weight_files]
            return sizes[0] if sizes else {}
        if self.headers.errors:
            raise self.headers.errors[0]
        return bytes_by_dtype(tensor for _, _, tensor in self.headers.tensors)

    @cached_property
    def card(self) -> "ModelCardData | None":
        """Metadata of the card in the folder; None where there is no card, or one that cannot be read."""
        card: ModelCardData | None = read_card(self.path)
        return card

    @cached_property
    def given_values(self) -> tuple[str, ...]:
        """The layers of packed codes whose weight the model's class gives first values to, where a program asks that.

        Empty where no model can be built from the config.
        """
        tensors = {name: tensor for _, name, tensor in self.headers.tensors}
        if self.format is None or self.quantization is None or not asks_for_first_values(self.format.name):
            return ()
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        packed = [name for name in self.format.layer_bits(self.quantization, shapes) if f"{name}.weight" not in tensors]
        return _given_values(self.path, packed) if packed else ()

    @property
    def quantization(self) -> dict[str, Any] | None:
        """The `quantization_config` of its config; None in full precision, and where it is no JSON object."""
        values = self.config.get("quantization_config")
        return values if isinstance(values, dict) else None

    @property
    def format(self) -> Format | None:
        """The format of its quantized tensors; None in full precision, and for a format that is not known here."""
        return format_of(self.quantization)


def _given_values(folder: Path, packed: list[str]) -> tuple[str, ...]:
    """Return those of some layers of a folder whose weight the model's class gives first values to."""
    # They import transformers, which is not needed to list a folder.
    from qtoolkit.formats.stored_layer import module_names
    from qtoolkit.models.first_values import layers_given_first_values
    from qtoolkit.models.opening import open_structure

    try:
        checkpoint = open_structure(folder)
        names = module_names(checkpoint.skeleton, packed)
        return layers_given_first_values(checkpoint.skeleton, [*names.values()])
    except QToolkitError:
        # What else is wrong with the folder, other checks tell.
        return ()


def open_artifact(path: str | os.PathLike[str]) -> Artifact:
    """List a folder, and read its config and its receipt.

    Raises:
        ConfigError: a path that cannot be one.
        ModelNotFoundError: there is no such folder, or no model in it.
    """
    folder = _existing_folder(path)
    listing = list_folder(folder)
    if not any(name == "config.json" or name.endswith(".safetensors") for name in (*listing.names, *listing.odd)):
        shown = printable(str(folder))
        raise ModelNotFoundError(f"{shown} holds no model: name a folder that qt.quantize or save_pretrained wrote")
    receipt, problem = None, ""
    try:
        receipt = read_receipt(folder)
    except CheckpointError as error:
        problem = oneline(error)
    config = read_json(folder / "config.json")
    beside = receipts_beside(folder, listing.names)
    return Artifact(folder, listing.names, config, receipt, problem, listing.outside, listing.odd, beside)


def _existing_folder(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a folder; a job that was interrupted while it replaced the folder is finished first.

    Raises:
        ModelNotFoundError: there is no such folder.
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
