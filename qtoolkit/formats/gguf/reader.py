"""Plan and load a folder around a `.gguf` file; its weights are expanded to 16 bits, since torch knows no blocks."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.gguf_architectures import architecture_of
from qtoolkit.checkpoints.gguf_header import read_gguf
from qtoolkit.checkpoints.gguf_places import one_share, places_of
from qtoolkit.checkpoints.gguf_vocabulary import WHOLE_KEYS
from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError
from qtoolkit.formats.base import Reader, Sizes
from qtoolkit.formats.file_format import in_full_precision
from qtoolkit.formats.gguf.mixes import MIXES
from qtoolkit.formats.gguf.token_check import compare_tokens
from qtoolkit.formats.gguf.vocabulary import vocabulary_of
from qtoolkit.formats.layer import Layer
from qtoolkit.models.gguf_tokenizer import MERGING
from qtoolkit.models.tokenizer import load_tokenizer
from qtoolkit.noted import Noted
from qtoolkit.records import LayerPlan, ignore_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint


def bytes_by_type(file: Path) -> dict[str, int]:
    """Return the bytes of all tensors of each type, as `FileFormat.bytes_by_type`."""
    sizes: Counter[str] = Counter()
    for place in read_gguf(file).tensors.values():
        sizes[place.type_.name] += place.nbytes
    return dict(sorted(sizes.items()))


def type_problem(file: Path, quant_type: Any) -> str:
    """Return how the type that a config states differs from the one that a file states; empty where it does not.

    Files of llama.cpp without a type, and those whose header cannot be read, say nothing here.
    """
    try:
        number = read_gguf(file).values.get("general.file_type")
    except QToolkitError:
        return ""
    names = {mix.file_type: name for name, mix in MIXES.items()}
    if number is None or (isinstance(number, int) and names.get(number) == quant_type):
        return ""
    stated = names.get(number, number) if isinstance(number, int) else number
    return f"quant_type is {quant_type!r:.40}, and {file.name} is of {stated!r:.40} by its header"


def tokenizer_problem(file: Path) -> str:
    """Return what of the tokenizer in a file's header is not that of its folder's; empty where all is.

    llama.cpp reads the one in the header, and transformers the one beside it. What cannot be read says nothing here.
    """
    try:
        tokenizer = load_tokenizer(file.parent)
        num_tokens = read_gguf(file).shapes["token_embd.weight"][0]
    except (QToolkitError, KeyError):
        return ""
    try:
        expected = vocabulary_of(tokenizer, num_tokens)
    except UnsupportedModelError:
        return f"{file.name} holds another tokenizer than that beside it, which no .gguf file holds"
    stored = read_gguf(file, whole=expected).values
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    others = [key for key, value in expected.items() if lists.get(key) != value.content]
    return f"{file.name} and the tokenizer beside it differ in {', '.join(others)}" if others else ""


def compare_with_tokenizer(file: Path) -> Noted[str]:
    """Compare the tokenizer in a file's header with that of its folder, as `FileFormat.compare_tokens`."""
    try:
        tokenizer, values = load_tokenizer(file.parent), read_gguf(file, whole=WHOLE_KEYS).values
    except QToolkitError:
        return Noted("")
    if getattr(tokenizer, "backend_tokenizer", None) is None or values.get("tokenizer.ggml.model") not in MERGING:
        return Noted("")
    return compare_tokens(tokenizer, values)


class GGUFReader(Reader):
    """Plan and load one folder.

    Args:
        checkpoint: of a folder whose config names the file.
    """

    name = "gguf"
    bits: Mapping[str, int] = {}

    def __init__(self, checkpoint: "Checkpoint") -> None:
        assert checkpoint.path is not None
        if problem := type_problem(checkpoint.path, (checkpoint.quantization or {}).get("quant_type")):
            raise CheckpointError(
                f"the config of {checkpoint.name} is not that of its file ({problem}): get both again"
            )
        self._tensors = read_gguf(checkpoint.path).tensors
        self._file_size = checkpoint.path.stat().st_size
        self._architecture = architecture_of(checkpoint.config)
        self.splits_experts = self._architecture.experts

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        """See `Planner`: as large in memory as before, and as its tensor, or its share of one, in the file."""
        places = places_of(f"{layer.name}.weight", self._architecture)
        found = [(self._tensors[place.name], place.expert) for place in places if place.name in self._tensors]
        if not found:
            return layer.left_alone("has no tensor of its own in the file")
        nbytes = sum(one_share(tensor, expert) for tensor, expert in found)
        before = layer.num_weights * layer.itemsize
        return layer.replaced(before, disk_bytes=nbytes, working_bytes=nbytes)

    def plan_embedding(self, layer: Layer, config: Any, *, multiplies: bool) -> LayerPlan | None:
        """See `Planner`."""
        return self.plan_layer(layer, config)

    def sizes(self, layers: Sizes) -> Sizes:
        """See `Planner`."""
        return layers._replace(disk=self._file_size)

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """See `Planner`."""
        from qtoolkit.stream.loading import load_streamed

        return load_streamed(in_full_precision(checkpoint), None, device=device, on_progress=ignore_progress)
