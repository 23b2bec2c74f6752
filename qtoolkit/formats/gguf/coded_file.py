"""Plan a `.gguf` file whose blocks take over the codes of a quantized checkpoint, and write it tensor by tensor."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.gguf_writing import TensorEntry, Value, write_gguf
from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.formats.file_of_codes import FileOfCodes, FilePart, Unheld
from qtoolkit.formats.gguf.code_types import bits_per_weight, has_exact_scales, type_of_codes
from qtoolkit.formats.gguf.file_plan import FilePlan, PlannedTensor, interleaved, plan_file
from qtoolkit.formats.gguf.file_titles import file_name_of, general_texts, notes_on_header, tokenizer_of
from qtoolkit.formats.gguf.mixes import MIXES
from qtoolkit.formats.layer_codes import LayerCodes
from qtoolkit.kernels import output_blocks, stored_bytes
from qtoolkit.measure.malloc import GIVE_BACK_EVERY, give_memory_back
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.loading import check_finite
from qtoolkit.tensor.block_codes import BlockCodes, largest_change, pack_codes
from qtoolkit.tensor.block_types import BLOCK_TYPES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.checkpoints.safetensors import StoredTensor
    from qtoolkit.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class CodedTensor:
    """A tensor of the file whose blocks take over codes.

    Attributes:
        entry: its line in the file.
        layers: whose codes it takes: one, or one for each expert.
        type_: of its blocks.
        heads: into how many heads the rows divide whose halves are interleaved; 0 for rows that stay in order.
    """

    entry: TensorEntry
    layers: tuple[LayerCodes, ...]
    type_: BlockCodes
    heads: int

    @property
    def is_rounded(self) -> bool:
        """Check whether scales or minima are rounded."""
        return self.type_.has_minimum or not all(map(has_exact_scales, self.layers))


@dataclass(frozen=True)
class _Change:
    """By how much rounding moves the weights of a layer at most, and the step between codes there."""

    moved: float
    step: float
    layer: str


def plan_coded_file(
    checkpoint: "Checkpoint",
    model: "PreTrainedModel",
    layers: Mapping[str, LayerCodes],
    *,
    lossy: bool,
    wider: bool,
) -> "CodedFile | Unheld":
    """Plan the file, as `FileFormat.file_of_codes` describes."""
    plain = "BF16" if checkpoint.dtype == torch.bfloat16 else "F16"
    shapes = _shapes(checkpoint, model, layers)
    tokenizer = tokenizer_of(checkpoint)
    texts = general_texts(checkpoint, tokenizer)
    plan = plan_file(checkpoint.config, shapes, tokenizer, plain, texts)
    by_source = {f"{layer.name}.weight": layer for layer in layers.values()}
    coded: dict[str, CodedTensor] = {}
    unheld: list[Unheld] = []
    for tensor in plan.tensors:
        taken = tuple(by_source[source] for source in tensor.sources if source in by_source)
        if not taken:
            continue
        if len(taken) < len(tensor.sources):
            left = next(source for source in tensor.sources if source not in by_source)
            unheld.append(Unheld(f"experts of which some are not quantized ({left.removesuffix('.weight')})"))
            continue
        type_ = type_of_codes(taken, lossy=lossy, wider=wider)
        if isinstance(type_, Unheld):
            unheld.append(type_)
            continue
        block = BLOCK_TYPES[type_.name]
        entry = replace(tensor.entry, number=block.number, nbytes=block.nbytes(tensor.entry.shape))
        coded[entry.name] = CodedTensor(entry, taken, type_, tensor.order.heads)
    if unheld:
        # What no option helps is said first.
        return min(unheld, key=lambda one: bool(one.ways))
    weights: Counter[str] = Counter()
    for one in coded.values():
        weights[one.type_.name] += prod(one.entry.shape)
    ((quant_type, _),) = weights.most_common(1)
    tensors = tuple(_with_entry(tensor, coded) for tensor in plan.tensors)
    values = {**plan.values, "general.file_type": Value("uint32", MIXES[quant_type].file_type)}
    return CodedFile(
        checkpoint,
        FilePlan(values, tensors),
        coded,
        quant_type=quant_type,
        plain=plain,
        asked={"lossy": lossy, "wider": wider},
        named=notes_on_header(checkpoint, plan.values, tokenizer),
    )


class CodedFile(FileOfCodes):
    """A planned file.

    Args:
        checkpoint: quantized.
        plan: of all tensors.
        coded: those of them that take over codes, by their names in the file.
        quant_type: of most weights.
        plain: the type of the matrices that are not quantized.
        asked: what the conversion was allowed, `lossy` and `wider`.
        named: notes on what the model is called in the file.
    """

    def __init__(
        self,
        checkpoint: "Checkpoint",
        plan: FilePlan,
        coded: Mapping[str, CodedTensor],
        *,
        quant_type: str,
        plain: str,
        asked: Mapping[str, bool],
        named: tuple[str, ...],
    ) -> None:
        self._checkpoint = checkpoint
        self._plan = plan
        self._coded = coded
        self._file_name = file_name_of(checkpoint, quant_type)
        self.values = {"quant_method": "gguf", "quant_type": quant_type, "file": self._file_name}
        self.nbytes = plan.nbytes
        self.weight_bytes = sum(entry.nbytes for entry in plan.entries)
        self.lossy = any(one.is_rounded for one in coded.values())
        self._rounded = " and ".join(_rounded_parts(coded))
        self.same = _same(self._rounded)
        self.notes = (*_notes(coded), *_plain_notes(checkpoint, plan, coded, plain), *named, *self._unneeded(asked))
        self._planned = {tensor.entry.name: tensor for tensor in plan.tensors}
        # What workers have made: bytes, uint8 [bytes], by the names of tensors, and what rounding changed in each part.
        self._made: Mapping[str, StoredTensor | torch.Tensor] = {}
        self._changed: tuple[_Change, ...] = ()

    def parts(self) -> tuple[FilePart, ...]:
        """See `FileOfCodes`."""
        return self._plan.parts()

    def make_part(self, part: FilePart) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """See `FileOfCodes`: the values are the largest change, if there is one."""
        changes: list[_Change] = []
        tensors = {name: self._make(name, changes).reshape(-1) for name in part.tensors}
        return tensors, asdict(_largest(changes)) if changes else {}

    def with_made(
        self, tensors: "Mapping[str, StoredTensor | torch.Tensor]", changes: Iterable[Mapping[str, Any]]
    ) -> "CodedFile":
        """See `FileOfCodes`."""
        file = copy(self)
        own = vars(file)
        own["_made"] = tensors
        own["_changed"] = tuple(_Change(**change) for change in changes if change)
        return file

    def write(self, folder: Path, on_progress: OnProgress) -> tuple[str, ...]:
        """See `FileOfCodes`."""
        changes = [*self._changed]
        done = given_back = 0

        def make(entry: TensorEntry) -> torch.Tensor:
            return self._make(entry.name, changes)

        for entry in write_gguf(folder / self._file_name, self._plan.values, self._plan.entries, make):
            done += entry.nbytes
            if done - given_back > GIVE_BACK_EVERY:
                given_back = done
                give_memory_back()
            on_progress(ProgressEvent("save", done, self.weight_bytes, "bytes", entry.name))
        if not changes:
            return ()
        most = _largest(changes)
        told = f"lossy: rounding {self._rounded} to float16 moves weights by {most.moved:.1e} at most"
        return (f"{told}, {most.moved / (most.step or 1.0):.1%} of a step between codes, in {most.layer}",)

    def _make(self, name: str, changes: list[_Change]) -> torch.Tensor:
        """Return the bytes of a tensor, uint8; add to `changes` what rounding changes of it."""
        if name in self._made:
            return self._made[name][...]
        coded = self._coded.get(name)
        return self._planned[name].made(self._read) if coded is None else self._packed(coded, changes)

    def _read(self, name: str) -> torch.Tensor:
        """Return a tensor of the checkpoint that is not quantized."""
        weight = self._checkpoint.tensors[name][...]
        check_finite(self._checkpoint.name, name, weight)
        return weight

    def _packed(self, coded: CodedTensor, changes: list[_Change]) -> torch.Tensor:
        """Return the bytes of a tensor that takes over codes, uint8 [layers, rows, bytes of a row].

        The codes of one layer at a time are in memory, and adds what rounding changes of it to `changes`.
        """
        rows = coded.layers[0].shape[0]
        count = len(coded.layers)
        packed = torch.empty(count, rows, coded.entry.nbytes // count // rows, dtype=torch.uint8)
        for own, layer in zip(packed, coded.layers, strict=True):
            try:
                codes = layer.codes()
            except ValueError as error:
                raise CheckpointError(f"{layer.name} of {self._checkpoint.name} is damaged: {error}") from error
            for outputs in output_blocks(codes):
                by_row = codes.codes(outputs).T.contiguous()  # [in, outputs] -> [outputs, in]
                zeros = torch.as_tensor(codes.zero_points(outputs))
                scales, zeros = torch.broadcast_tensors(codes.scale(outputs).expand(-1, len(by_row)), zeros)
                own[outputs] = pack_codes(by_row, scales.T, zeros.T, coded.type_)
                if coded.is_rounded:
                    moved, step = largest_change(by_row, scales.T, zeros.T, coded.type_)
                    changes.append(_Change(moved, step, layer.name))
            del codes  # before the next layer is read
            if coded.heads:
                own.copy_(interleaved(own, coded.heads))
        return packed

    def _unneeded(self, asked: Mapping[str, bool]) -> Iterator[str]:
        """Yield notes on what was allowed and not used."""
        if asked["lossy"] and not self.lossy:
            yield "lossy: nothing is rounded, since all codes and scales are held exactly"
        if asked["wider"] and all(
            {layer.bits for layer in one.layers} == {one.type_.bits} for one in self._coded.values()
        ):
            yield "wider: no codes are stored in larger ones"


def _largest(changes: Iterable[_Change]) -> _Change:
    """Return the largest of some changes, the first of those that are equal."""
    return max(changes, key=lambda change: change.moved)


def _shapes(
    checkpoint: "Checkpoint", model: "PreTrainedModel", layers: Mapping[str, LayerCodes]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the tensors of a checkpoint would have in full precision, in the order of its file.

    Raises:
        UnsupportedModelError: a bias that the model has no place for.
    """
    weight_of = {f"{layer.name}.{part}": layer for layer in layers.values() for part in layer.layer.tensors.tensors()}
    # Some programs write biases of zeros for layers that have none.
    unknown = {
        f"{layer.name}.bias"
        for name, layer in layers.items()
        if layer.layer.bias_dtype is not None and getattr(model.get_submodule(name), "bias", None) is None
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for key, tensor in checkpoint.tensors.items():
        if key in weight_of:
            layer = weight_of[key]
            rows, columns = layer.shape
            shapes[f"{layer.name}.weight"] = (columns, rows) if layer.transposed else (rows, columns)
        elif key not in unknown:
            shapes[key] = tuple(tensor.shape)
        elif tensor[...].any():
            raise UnsupportedModelError(
                f"no .gguf file is written of this model: {key!r} is not 0, and by its config the layer has no bias"
            )
    return shapes


def _with_entry(tensor: PlannedTensor, coded: Mapping[str, CodedTensor]) -> PlannedTensor:
    """Return a tensor of the plan, its entry that of blocks of codes where it takes over some."""
    found = coded.get(tensor.entry.name)
    return tensor if found is None else replace(tensor, entry=found.entry, type_=BLOCK_TYPES[found.type_.name])


def _rounded_parts(coded: Mapping[str, CodedTensor]) -> Iterator[str]:
    """Yield what is rounded to float16 besides nothing: scales, minima."""
    if not all(has_exact_scales(layer) for one in coded.values() for layer in one.layers):
        yield "scales"
    if any(one.type_.has_minimum for one in coded.values()):
        yield "minima"


def _same(rounded: str) -> str:
    """Return what is the same numbers as before, where these parts are rounded."""
    kept = {"": "codes, scales and zero points", "minima": "codes and scales"}.get(rounded, "codes")
    return f"{kept} are the same numbers"


def _notes(coded: Mapping[str, CodedTensor]) -> Iterator[str]:
    """Yield what each kind of layers takes in the file, and took before."""
    kinds: dict[tuple[int, BlockCodes], list[LayerCodes]] = {}
    for one in coded.values():
        for layer in one.layers:
            kinds.setdefault((layer.bits, one.type_), []).append(layer)
    for (bits, type_), layers in sorted(kinds.items(), key=lambda kind: (kind[0][0], kind[0][1].name)):
        weights = sum(prod(layer.shape) for layer in layers)
        before = 8 * sum(stored_bytes(layer.layer.tensors) for layer in layers) / weights
        yield (
            f"{len(layers)} layers of {bits} bits as {type_.name}, in blocks of 32 with a scale each: "
            f"{bits_per_weight(type_):g} bits per weight, {before:.2f} before"
        )


def _plain_notes(
    checkpoint: "Checkpoint", plan: FilePlan, coded: Mapping[str, CodedTensor], plain: str
) -> Iterator[str]:
    """Yield how what is not quantized is stored, and whether that rounds it."""
    left = [one for one in plan.tensors if one.type_.name == plain and one.entry.name not in coded]
    if not left:
        return
    yield f"{len(left)} matrices that are not quantized are stored as {plain}"
    dtype = {"BF16": torch.bfloat16, "F16": torch.float16}[plain]
    others = [source for one in left for source in one.sources if checkpoint.tensors[source].dtype != dtype]
    if others:
        own = str(checkpoint.tensors[others[0]].dtype).removeprefix("torch.")
        yield f"{len(others)} of them are rounded to that from another type, such as {others[0]} from {own}"
