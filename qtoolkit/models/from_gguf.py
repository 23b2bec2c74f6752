"""Open a `.gguf` file as transformers reads it: its config now, its weights when they are wanted."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.config_limits import check_against_weights, check_numbers
from qtoolkit.checkpoints.expanded_tensors import stored_bytes
from qtoolkit.checkpoints.gguf_header import GgufHeader, TensorPlace, read_gguf
from qtoolkit.checkpoints.gguf_parts import parts_of
from qtoolkit.checkpoints.gguf_tensors import LAYOUTS, gguf_tensor, types_of
from qtoolkit.checkpoints.panics import panics_as_errors
from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.errors import CheckpointError, SourceError, UnsupportedModelError
from qtoolkit.models.building import cause_of, using_transformers
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.gguf_names import names_in_file
from qtoolkit.models.tokenizer import load_tokenizer
from qtoolkit.optional import optional
from qtoolkit.units import format_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def open_gguf(
    file: Path, tokenizer: Any, *, config: "PreTrainedConfig | None" = None, headers_only: bool = False
) -> Checkpoint:
    """Open a `.gguf` file; no weight is read.

    Args:
        file: the file.
        tokenizer: one to use instead of the file's own; None for that.
        config: of the model in full precision, where a folder has it; None for the one that the file describes, which
            transformers takes seconds to read.
        headers_only: leave the file's tokenizer unread.

    Raises:
        SourceError: transformers cannot read it, it is damaged, or one of its parts is missing.
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
    if config is None:
        config = _load_config(file, header, shapes)
    # "none" is llama.cpp's name of no tokenizer.
    has_tokenizer = header.values.get("tokenizer.ggml.model", "none") != "none"
    if tokenizer is None and not headers_only and has_tokenizer:
        tokenizer = load_tokenizer(file.parent, gguf_file=file.name)
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
    ).with_notes(*_rope_notes(header))
    if header.architecture in LAYOUTS and all(len(place.shape) < 3 for _, place in places.values()):
        return _streamed(checkpoint, header.architecture, places)
    if len(parts) > 1:
        raise UnsupportedModelError(
            f"{file} is one of {len(parts)} files, and {header.architecture} models are read from one alone: join them "
            "with `llama-gguf-split --merge`"
        )
    return checkpoint.with_notes("the .gguf file was expanded to bfloat16 by transformers before it was quantized")


def _rope_notes(header: GgufHeader) -> list[str]:
    """Return a note where the file scales its rope, which transformers does not read of it."""
    kind = header.values.get(f"{header.architecture}.rope.scaling.type", "none")
    scaled = [name for name in header.tensors if name.startswith(("rope_freqs", "rope_factors"))]
    if kind == "none" and not scaled:
        return []
    what = f"{kind!r:.40}" if kind != "none" else scaled[0]
    note = (
        f"the scaling of the rope ({what}) is not read by transformers: long texts are computed otherwise than by the"
    )
    return [f"{note} original model, and the config of a result has no scaling"]


def _streamed(checkpoint: Checkpoint, architecture: str, places: Mapping[str, tuple[Path, TensorPlace]]) -> Checkpoint:
    """Return a checkpoint whose weights are expanded one by one as they are read.

    Args:
        checkpoint: of the file.
        architecture: llama.cpp's name of the kind of model.
        places: of the tensors by llama.cpp's names, each with the file that holds it.
    """
    config = checkpoint.config
    model = checkpoint.skeleton
    layout = LAYOUTS[architecture]
    names = names_in_file(architecture, config.num_hidden_layers, model.state_dict())
    queries = config.num_attention_heads
    heads = (queries, getattr(config, "num_key_value_heads", None) or queries)
    tensors = {
        names[name]: gguf_tensor(file, name, place, checkpoint.dtype, layout, heads)
        for name, (file, place) in places.items()
        if name in names
    }
    if not tensors:
        raise CheckpointError(f"{checkpoint.name} holds no weight of a {config.model_type} model: name another file")
    kinds = types_of(tensors.values())
    whole = sum(tensor.nbytes for tensor in tensors.values())
    note = (
        f"its weights are stored as {kinds}, {format_bytes(stored_bytes(tensors))}, and are expanded to bfloat16, "
        f"{format_bytes(whole)}, one by one as they are read: all figures compare with the expanded model"
    )
    others = ", ".join(sorted(places.keys() - names.keys()))
    left_out = [f"left out of the .gguf file, since transformers has no place for it: {others:.200}"] * bool(others)
    result = replace(checkpoint, tensors=tensors, expand=None, stored_as=kinds, _built=[])
    return result.with_notes(note, *left_out)


def _load_config(file: Path, header: GgufHeader, shapes: Mapping[str, tuple[int, ...]]) -> "PreTrainedConfig":
    """Load the config that a `.gguf` file describes, whose header was found sound.

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
