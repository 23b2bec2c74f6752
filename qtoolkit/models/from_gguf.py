"""Open a `.gguf` file: its config now, its weights when they are wanted."""

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.config_limits import check_against_weights, check_numbers
from qtoolkit.checkpoints.gguf_architectures import ARCHITECTURES
from qtoolkit.checkpoints.gguf_header import GgufHeader, TensorPlace, read_gguf
from qtoolkit.checkpoints.gguf_parts import parts_of
from qtoolkit.checkpoints.gguf_places import IN_ORDER
from qtoolkit.checkpoints.gguf_tensors import gguf_source
from qtoolkit.checkpoints.panics import panics_as_errors
from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.errors import CheckpointError, QToolkitError, SourceError, UnsupportedModelError, oneline
from qtoolkit.models.building import cause_of, using_transformers
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.gguf_config import config_of_gguf, model_type_of
from qtoolkit.models.gguf_weights import with_weights_of
from qtoolkit.models.tokenizer import load_gguf_tokenizer
from qtoolkit.optional import optional

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# The tensors of block 3 begin with "blk.3.".
_BLOCK = re.compile(r"blk\.(\d+)\.")


def open_gguf(
    file: Path, tokenizer: Any, *, config: "PreTrainedConfig | None" = None, headers_only: bool = False
) -> Checkpoint:
    """Open a `.gguf` file; no weight is read.

    Args:
        file: the file.
        tokenizer: one to use instead of the file's own; None for that.
        config: of the model in full precision, where a folder has it; None for the one that the file describes.
        headers_only: leave the file's tokenizer unread.

    Raises:
        SourceError: it is damaged, one of its parts is missing, or it is of an architecture that neither qtoolkit nor
            transformers reads.
        MissingDependencyError: without the package that reads it.
    """
    optional("gguf", f"reading {file}")
    if problem := lfs_problem(file):
        raise SourceError(problem)
    parts = {part: read_gguf(part) for part in parts_of(file)}
    file, header = next(iter(parts.items()))
    places = {name: (part, place) for part, own in parts.items() for name, place in own.tensors.items()}
    if len(places) != sum(len(own.tensors) for own in parts.values()):
        raise SourceError(f"two of the {len(parts)} parts of {file} hold one tensor: get the parts of one model")
    shapes = {name: place.shape for name, (_, place) in places.items()}
    check_numbers(str(file), header.config)
    check_against_weights(str(file), header.config, shapes)
    model_type = model_type_of(header) if config is None else str(config.model_type)
    architecture = ARCHITECTURES.get(model_type or "")
    if config is None and model_type is None:
        config = _load_config(file, header, shapes)
    elif config is None:
        config = _made_config(file, header, str(model_type), places)
    elif architecture is not None and architecture.name != header.architecture:
        held = f"{file.name} holds a {header.architecture!r:.40}"
        raise CheckpointError(f"the config of {file.parent} is of a {model_type} model, and {held}: get both again")
    # "none" is llama.cpp's name of no tokenizer.
    has_tokenizer = header.values.get("tokenizer.ggml.model", "none") != "none"
    notes = _rope_notes(header, config)
    if tokenizer is None and not headers_only and has_tokenizer:
        read = load_gguf_tokenizer(file)
        tokenizer, notes = read.value, [*notes, *read.notes]
    checkpoint = Checkpoint(
        name=str(file),
        config=config,
        tensors={},
        dtype=torch.bfloat16,
        format="gguf",
        path=file,
        disk_size=sum(part.stat().st_size for part in parts),
        tokenizer=tokenizer,
        checked="not checked: a file, of which no hash is known",
        expand=partial(_expand, file, config),
    ).with_notes(*notes)
    if architecture is not None:
        return with_weights_of(checkpoint, architecture, places)
    if len(parts) > 1:
        raise UnsupportedModelError(
            f"{file} is one of {len(parts)} files, and {header.architecture} models are read from one alone: join them "
            "with `llama-gguf-split --merge`"
        )
    return checkpoint.with_notes("the .gguf file was expanded to bfloat16 by transformers before it was quantized")


def _made_config(
    file: Path, header: GgufHeader, model_type: str, places: Mapping[str, tuple[Path, TensorPlace]]
) -> "PreTrainedConfig":
    """Make the config that a `.gguf` file describes, whose header was found sound.

    Args:
        file, header: the file, the first one of several parts.
        model_type: transformers' name of the kind of model.
        places: of the tensors by llama.cpp's names, each with the file that holds it.

    Raises:
        CheckpointError: the header lacks a value, has one that no model has, or tells of fewer blocks than there are.
    """

    def read(name: str) -> list[float]:
        part, place = places[name]
        vector: list[float] = gguf_source(part).tensor(name, place, torch.float32, IN_ORDER)[...].tolist()
        return vector

    shapes = {name: place.shape for name, (_, place) in places.items()}
    try:
        with using_transformers():
            config = config_of_gguf(header, model_type, shapes, read)
    except QToolkitError:
        raise
    except Exception as error:  # a header that lies makes transformers raise anything
        what = f"its header describes no {model_type} model: {oneline(error)}"
        raise CheckpointError(f"cannot read {file} ({what}): name another file, or download it again") from error
    count = config.get_text_config().num_hidden_layers
    beyond = [name for name in sorted(places) if (block := _BLOCK.match(name)) and int(block[1]) >= count]
    if beyond:
        raise CheckpointError(
            f"{file} holds {beyond[0]}, and its header tells of {count} blocks: name another file, or download it again"
        )
    return config


def _rope_notes(header: GgufHeader, config: "PreTrainedConfig") -> list[str]:
    """Return a note where the file scales its rope, and the config does not."""
    kind = header.values.get(f"{header.architecture}.rope.scaling.type", "none")
    scaled = [name for name in header.tensors if name.startswith(("rope_freqs", "rope_factors"))]
    ropes = getattr(config, "rope_parameters", None) or {}
    types = {ropes.get("rope_type"), *(rope.get("rope_type") for rope in ropes.values() if isinstance(rope, dict))}
    if (kind == "none" and not scaled) or types - {None, "default"}:
        return []
    what = f"{kind!r:.40}" if kind != "none" else scaled[0]
    note = f"the scaling of the rope ({what}) is not known here: long texts are computed otherwise than by the original"
    return [f"{note} model, and the config of a result has no scaling"]


def _load_config(file: Path, header: GgufHeader, shapes: Mapping[str, tuple[int, ...]]) -> "PreTrainedConfig":
    """Load the config that a `.gguf` file describes, by transformers; its header was found sound.

    Args:
        file: the file, the first one of several parts.
        header: of it.
        shapes: of the tensors of all parts.
    """
    from transformers import AutoConfig

    values = header.config
    with _reader_errors(file):
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    if "output.weight" in shapes.keys() - header.tensors.keys():
        config.tie_word_embeddings = False
    # transformers takes these from its defaults, and drops biases that its default has not.
    stored = {
        "head_dim": values.get("head_dim"),
        "vocab_size": shapes.get("token_embd.weight", (None,))[0],
        "n_positions": shapes.get("position_embd.weight", (None,))[0],
        "attention_bias": "blk.0.attn_q.bias" in shapes or None,
        "mlp_bias": "blk.0.ffn_up.bias" in shapes or None,
    }
    for key, value in stored.items():
        if isinstance(value, int) and getattr(config, key, None) is not None:
            setattr(config, key, value)
    return config


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
        raise SourceError(
            f"neither qtoolkit nor transformers reads {file} ({cause_of(error)}): name the model's full-precision form"
        ) from error


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
