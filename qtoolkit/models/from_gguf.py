"""Open a `.gguf` file as transformers reads it: its config now, its weights when they are wanted."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.config_limits import check_against_weights, check_numbers
from qtoolkit.checkpoints.folder import load_config, load_generation_config
from qtoolkit.checkpoints.gguf_header import read_gguf_header
from qtoolkit.checkpoints.panics import panics_as_errors
from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.errors import SourceError
from qtoolkit.files import file_bytes
from qtoolkit.hub.licenses import ancestry, inherited, license_of_folder, read_card
from qtoolkit.models.building import cause_of, using_transformers
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.tokenizer import load_tokenizer
from qtoolkit.optional import optional

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def open_gguf(file: Path, tokenizer: Any, *, headers_only: bool = False) -> Checkpoint:
    """Open a `.gguf` file; no weight is read.

    Args:
        file: the file.
        tokenizer: one to use instead of the file's own; None for that.
        headers_only: leave the file's tokenizer unread.

    Raises:
        SourceError: transformers cannot read it, or it is damaged.
        MissingDependencyError: without the package that reads it.
    """
    optional("gguf", f"reading {file}")
    if problem := lfs_problem(file):
        raise SourceError(problem)
    config = _load_config(file)
    if tokenizer is None and not headers_only:
        tokenizer = load_tokenizer(file.parent, gguf_file=file.name)
    return Checkpoint(
        name=str(file),
        config=config,
        tensors={},
        dtype=torch.bfloat16,
        format="gguf",
        path=file,
        disk_size=file.stat().st_size,
        tokenizer=tokenizer,
        checked="not checked: a file, of which no hash is known",
        notes=("the .gguf file was expanded to bfloat16 by transformers before it was quantized",),
        expand=partial(_expand, file, config),
    )


def open_gguf_folder(
    name: str, folder: Path, file: Path, tokenizer: Any, check: Callable[[Path], None], *, headers_only: bool = False
) -> Checkpoint:
    """Open a folder that qtoolkit put around a `.gguf` file: config and tokenizer are the folder's.

    Args:
        name: what the user called the model.
        folder: holds `config.json` and the file.
        file: that the config names.
        tokenizer, headers_only: as for `open_gguf`.
        check: refuses the model by its config.

    Raises:
        SourceError, MissingDependencyError: as `open_gguf`.
    """
    check(folder)
    if tokenizer is None and not headers_only:
        tokenizer = load_tokenizer(folder)
    opened = open_gguf(file, tokenizer, headers_only=headers_only)
    card = read_card(folder)
    return replace(
        opened,
        name=name,
        config=load_config(folder),
        generation_config=load_generation_config(folder),
        tokenizer_bytes=file_bytes(folder / "tokenizer.json"),
        license=license_of_folder(folder),
        inherited=inherited(card) | ancestry(card),
        notes=("the .gguf file is expanded to bfloat16 here; llama.cpp runs it as it is stored",),
    )


def _load_config(file: Path) -> "PreTrainedConfig":
    """Load the config that a `.gguf` file describes, once its header was found sound."""
    from transformers import AutoConfig

    values, shapes = read_gguf_header(file)
    check_numbers(str(file), values)
    check_against_weights(str(file), values, shapes)
    with _reader_errors(file):
        return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)


def _expand(file: Path, config: "PreTrainedConfig") -> dict[str, torch.Tensor]:
    """Read the weights of a `.gguf` file in bfloat16; all of them, since transformers has no other way.

    Args:
        file: the file.
        config: its config, which transformers would take seconds to read again.

    Raises:
        SourceError: transformers cannot read it.
    """
    from transformers import AutoModelForCausalLM

    # transformers writes into the config that it is given.
    options: dict[str, Any] = {"gguf_file": file.name, "dtype": torch.bfloat16, "config": copy.deepcopy(config)}
    # Versions without `GgufConfig` always expand.
    with suppress(ImportError):
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    with _reader_errors(file), using_transformers(), _without_gguf_bar():
        model = AutoModelForCausalLM.from_pretrained(file.parent, **options)
    tied = model.all_tied_weights_keys
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in tied}


@contextmanager
def _reader_errors(file: Path) -> Iterator[None]:
    """Raise a SourceError for whatever the reader of a damaged file raises."""
    try:
        with panics_as_errors():
            yield
    except Exception as error:
        raise SourceError(f"transformers cannot read {file} ({cause_of(error)}): name another file") from error


@contextmanager
def _without_gguf_bar() -> Iterator[None]:
    """Hide the progress bar of transformers' `.gguf` reader, which none of its settings hides."""
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar
