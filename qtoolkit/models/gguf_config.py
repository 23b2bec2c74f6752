"""A `.gguf` file as transformers reads it: its config and, when they are wanted, its weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.config_limits import check_against_weights, check_numbers
from qtoolkit.checkpoints.gguf_header import read_gguf_header
from qtoolkit.checkpoints.panics import panics_as_errors
from qtoolkit.errors import SourceError
from qtoolkit.models.building import cause_of, using_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def load_gguf_config(file: Path) -> "PreTrainedConfig":
    """The config that a `.gguf` file describes, once its header was found sound.

    Raises:
        CheckpointError: the header lies, or says what cannot be true of its tensors.
        SourceError: transformers cannot read it.
    """
    from transformers import AutoConfig

    values, tensors = read_gguf_header(file)
    check_numbers(str(file), values)
    check_against_weights(str(file), values, tensors)
    try:
        with panics_as_errors():
            return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # a damaged file makes its reader raise anything
        raise SourceError(f"transformers cannot read {file} ({cause_of(error)}): name another file") from error


def expand_gguf(file: Path, config: "PreTrainedConfig") -> dict[str, torch.Tensor]:
    """The weights of a `.gguf` file in bfloat16; all of them, since transformers has no other way.

    Args:
        file: the file.
        config: its config, which transformers would take seconds to read again.

    Raises:
        SourceError: transformers cannot read it.
    """
    from transformers import AutoModelForCausalLM

    # It writes into the config that it is given.
    options: dict[str, Any] = {"gguf_file": file.name, "dtype": torch.bfloat16, "config": copy.deepcopy(config)}
    try:
        from transformers import GgufConfig
    except ImportError:
        # Versions without it always expand.
        expand = {}
    else:
        expand = {"quantization_config": GgufConfig(dequantize=True)}
    try:
        with using_transformers(), _without_gguf_bar(), panics_as_errors():
            model = AutoModelForCausalLM.from_pretrained(file.parent, **options, **expand)
    except Exception as error:  # a damaged file makes its reader raise anything
        raise SourceError(f"transformers cannot read {file} ({cause_of(error)}): name another file") from error
    tied = model.all_tied_weights_keys
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in tied}


@contextmanager
def _without_gguf_bar() -> Iterator[None]:
    """transformers without the bar of its `.gguf` reader, which heeds none of its settings."""
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    reader.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar
