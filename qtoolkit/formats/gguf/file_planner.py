"""Plan the `.gguf` file of a model, module by module, and write it tensor by tensor."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.gguf_architectures import architecture_of
from qtoolkit.checkpoints.gguf_places import Place, one_share, places_of
from qtoolkit.checkpoints.gguf_tensors import expanded_rows
from qtoolkit.checkpoints.gguf_writing import TensorEntry, write_gguf
from qtoolkit.checkpoints.imatrix import Imatrix
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.base import Sizes
from qtoolkit.formats.file_format import FilePlanner
from qtoolkit.formats.file_of_codes import FilePart
from qtoolkit.formats.gguf.file_plan import FilePlan, PlannedTensor, plan_file
from qtoolkit.formats.gguf.file_titles import file_name_of, general_texts, notes_on_header, tokenizer_of
from qtoolkit.formats.gguf.given_types import fitting_types, left_alone, retyped, retyped_names
from qtoolkit.formats.gguf.importance import check_importance, header_values, importance_of, notes_on_file
from qtoolkit.formats.gguf.measured_importance import IMATRIX, MeasuredImportance
from qtoolkit.formats.gguf.mixes import MIXES, is_kept
from qtoolkit.formats.gguf.modelfile import NAME as MODELFILE
from qtoolkit.formats.gguf.modelfile import modelfile
from qtoolkit.formats.layer import Layer
from qtoolkit.measure.malloc import GIVE_BACK_EVERY, give_memory_back
from qtoolkit.records import LayerPlan, OnProgress, PhasePlan, ProgressEvent, Term
from qtoolkit.stream.loading import check_finite
from qtoolkit.tensor.block_types import BLOCK_TYPES, BlockType, quantize_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.checkpoints.safetensors import StoredTensor
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted
    from qtoolkit.stream.cost import JobShape
    from qtoolkit.stream.input_squares import InputSquares

# Of the blocks that are searched at one time: 27 MB were measured for Q5_K, which takes most.
_SEARCH_BYTES = 30_000_000
# The searches of a scale pass over each block so often.
_TOUCHES = 40


class GGUFPlanner(FilePlanner):
    """Plan and write the file of one model.

    Args:
        checkpoint: the model in full precision.
        quant_type: a name of `MIXES`.
        left: whether a module stays in 16 bits, by its name.
        types: the type of a module's weight, by its name; None where llama.cpp chooses.
        importance: the mean squares of inputs, float32 [in] or [experts, in], by llama.cpp's names of the tensors; an
            `Imatrix` for those of a file; an empty one where blocks will be given; None for none.
        modelfile: whether to write a `Modelfile` for Ollama beside the file.

    Raises:
        UnsupportedModelError: the architecture, an option of it, a tensor or the tokenizer is not written.
        ConfigError: the importance is that of another model; or experts of one tensor have several types.
        CheckpointError: it cannot be read.
    """

    name = "gguf"
    bits: Mapping[str, int] = {}
    splits_experts = True

    def __init__(
        self,
        checkpoint: "Checkpoint",
        quant_type: str,
        left: Callable[[str], bool],
        types: Callable[[str], str | None],
        *,
        importance: Mapping[str, torch.Tensor] | None = None,
        modelfile: bool = False,
    ) -> None:
        self._checkpoint = checkpoint
        self._quant_type = quant_type
        self._modelfile = modelfile
        shapes = {name: tuple(tensor.shape) for name, tensor in _tensors(checkpoint).items()}
        tokenizer = tokenizer_of(checkpoint)
        texts = general_texts(checkpoint, tokenizer)
        known = importance is not None
        planned = plan_file(checkpoint.config, shapes, tokenizer, quant_type, texts, importance=known)
        self._importance = importance or {}
        stated = header_values(importance) if isinstance(importance, Imatrix) else {}
        tensors = tuple(left_alone(retyped(one, types), left) for one in planned.tensors)
        self.file = FilePlan({**planned.values, **stated}, tensors)
        self._architecture = architecture_of(checkpoint.config)
        self.file_name = file_name_of(checkpoint, quant_type)
        self._written = {tensor.entry.name: tensor for tensor in self.file.tensors}
        source = notes_on_file(importance) if isinstance(importance, Imatrix) else ()
        checked = check_importance(self.file.tensors, self._importance) if self._importance else ()
        given = retyped_names(planned.tensors, tensors)
        self._notes = (_notes(self.file, quant_type, given), (*source, *checked))
        self._tokenizer = tokenizer
        self._measured: MeasuredImportance | None = None
        # By llama.cpp's names of tensors, and the numbers of experts.
        self._blocks: dict[str, dict[int | None, StoredTensor | torch.Tensor]] = {}
        # Bytes that workers have made, uint8 [bytes], by llama.cpp's names of tensors.
        self._made: Mapping[str, StoredTensor | torch.Tensor] = {}

    @cached_property
    def file_notes(self) -> tuple[str, ...]:
        """See `FilePlanner`: all texts of the tokenizer are compared with the header only where somebody reads this.

        Raises:
            UnsupportedModelError: the header gives other tokens than the tokenizer, and nothing known explains it.
        """
        of_tensors, of_importance = self._notes
        return (*of_tensors, *notes_on_header(self._checkpoint, self.file.values, self._tokenizer), *of_importance)

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        """See `Planner`: a layer takes what its tensor takes in the file, and runs from there."""
        return self._plan(layer)

    def plan_embedding(self, layer: Layer, config: Any, *, multiplies: bool) -> LayerPlan | None:
        """See `Planner`: embeddings are quantized too."""
        return self._plan(layer)

    def sizes_by_choice(self, layer: Layer, config: Any) -> Mapping[str, int]:
        """See `Planner`: those types whose blocks divide the rows; of blocks of 32 only where none of 256 do."""
        tensors = [self._written[place.name] for place in self._places(layer.name)]
        own = {tensors[0].type_.name: self._plan(layer).disk_bytes}
        if any(is_kept(tensor.entry.name, tensor.entry.shape) for tensor in tensors):
            return own
        types = fitting_types(config.choices_to_give(), layer.in_features)
        shape = (layer.out_features, layer.in_features)
        return {type_.name: type_.nbytes(shape) + layer.bias_bytes for type_ in types} or own

    def rounded(self, weight: torch.Tensor, layer: Layer, config: Any) -> torch.Tensor:
        """See `Planner`: weighed by the importance of its inputs, where that is known."""
        place, *_ = self._places(layer.name)
        type_ = BLOCK_TYPES[config.tensor_type]
        importance = importance_of(replace(self._written[place.name], type_=type_), self._importance)
        if importance is not None:
            importance = (importance if place.expert is None else importance[place.expert]).to(weight.device)
        return expanded_rows(quantize_rows(weight, type_, importance), type_.number)

    def sizes(self, layers: Sizes) -> Sizes:
        """See `Planner`: norms are float32 in the file, and its header holds the tokenizer."""
        return Sizes(memory=sum(entry.nbytes for entry in self.file.entries), disk=self.file.nbytes)

    def phases(self, job: "JobShape", config: Any) -> tuple[PhasePlan, ...]:
        """See `Planner`: one phase, which reads, quantizes and writes one tensor after the other."""
        read = max((tensor.nbytes for tensor in _tensors(self._checkpoint).values()), default=0)
        written = max((entry.nbytes for entry in self.file.entries), default=0)
        memory = [
            Term("largest tensor, as it is read", read, "its bytes in the type of the checkpoint"),
            Term("the same, as it is written", written, "its blocks"),
            Term("blocks that are searched", _SEARCH_BYTES, "float32 copies of the blocks of one step, measured"),
            Term("read and not given back yet", GIVE_BACK_EVERY, "freed memory is given back after so much"),
        ]
        if job.expanded:
            memory.append(Term("the .gguf file, expanded", job.expanded, "in bfloat16"))
        seconds = job.time(moved=job.read_bytes + self.file.nbytes, touched=_TOUCHES * 4 * job.weight_bytes)
        return (PhasePlan("quantize", (*job.base, *memory), (), bytes_moved=job.read_bytes, seconds=seconds),)

    def notes(self, config: Any, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """See `Planner`."""
        return self.file_notes

    def grids(self, layers: Iterable[str]) -> Mapping[str, BlockType]:
        """See `FilePlanner`."""
        types = {name: self._written[place.name].type_ for name in layers for place in self._places(name)}
        return {name: type_ for name, type_ in types.items() if type_.grid is not None}

    def with_blocks(self, blocks: "Mapping[str, StoredTensor | torch.Tensor]") -> "GGUFPlanner":
        """See `FilePlanner`."""
        by_tensor: dict[str, dict[int | None, StoredTensor | torch.Tensor]] = defaultdict(dict)
        for name, tensor in blocks.items():
            for place in self._places(name):
                by_tensor[place.name][place.expert] = tensor
        planner = copy(self)
        vars(planner)["_blocks"] = by_tensor
        return planner

    def with_importance(
        self, found: "Mapping[str, InputSquares]", *, text: str, samples: tuple[int, ...]
    ) -> "GGUFPlanner":
        """See `FilePlanner`: by tensors, those of the experts of one together."""
        places = ((place, squares) for name, squares in found.items() for place in self._places(name))
        measured = MeasuredImportance.of(places, text=text, samples=samples)
        planner = copy(self)
        own = vars(planner)
        own["_measured"] = measured
        own["_importance"] = means = measured.means
        own["file_notes"] = (*self.file_notes, *measured.notes, *check_importance(self.file.tensors, means))
        return planner

    def parts(self) -> tuple[FilePart, ...]:
        """See `FilePlanner`: nothing of a source whose tensors cannot be read one by one."""
        return () if self._checkpoint.expand else self.file.parts()

    def make_part(self, part: FilePart, device: str) -> dict[str, torch.Tensor]:
        """See `FilePlanner`."""

        def read(name: str) -> torch.Tensor:
            return self._read(self._checkpoint.tensors, name).to(device)

        return {name: self._made_of(self._written[name], read, device).cpu().reshape(-1) for name in part.tensors}

    def with_made(self, tensors: "Mapping[str, StoredTensor | torch.Tensor]") -> "GGUFPlanner":
        """See `FilePlanner`."""
        planner = copy(self)
        vars(planner)["_made"] = tensors
        return planner

    def write(self, folder: Path, device: str, on_progress: OnProgress) -> Mapping[str, Any]:
        """See `FilePlanner`."""
        checkpoint = self._checkpoint
        tensors = checkpoint.expand() if checkpoint.expand else checkpoint.tensors
        total = checkpoint.weight_bytes
        done = given_back = 0
        phase = "save" if self._made else "quantize"

        def read(name: str) -> torch.Tensor:
            nonlocal done
            weight = self._read(tensors, name)
            done += weight.nbytes
            return weight.to(device)

        def make(entry: TensorEntry) -> torch.Tensor:
            nonlocal done
            tensor = self._written[entry.name]
            is_given = entry.name in self._made or entry.name in self._blocks
            done += prod(entry.shape) * checkpoint.dtype.itemsize if is_given else 0
            if entry.name in self._made:
                return self._made[entry.name][...]
            if entry.name in self._blocks:
                return tensor.joined(self._blocks[entry.name])
            return self._made_of(tensor, read, device)

        for entry in write_gguf(folder / self.file_name, self.file.values, self.file.entries, make):
            if done - given_back > GIVE_BACK_EVERY:
                given_back = done
                give_memory_back()
            on_progress(ProgressEvent(phase, min(done, total), total, "bytes", entry.name))
        if self._measured is not None:
            self._measured.write(folder / IMATRIX)
        if self._modelfile:
            text = modelfile(self.file_name, tokenizer_of(checkpoint), checkpoint.config, checkpoint.generation_config)
            (folder / MODELFILE).write_text(text, encoding="utf-8")
        return {"quant_method": self.name, "quant_type": self._quant_type, "file": self.file_name}

    def _read(self, tensors: Mapping[str, Any], name: str) -> torch.Tensor:
        """Return a weight of the checkpoint; raises as `write`."""
        weight: torch.Tensor = tensors[name][...]
        check_finite(self._checkpoint.name, name, weight)
        return weight

    def _made_of(self, tensor: PlannedTensor, read: Callable[[str], torch.Tensor], device: str) -> torch.Tensor:
        """Return the bytes of a tensor, uint8; see `PlannedTensor.made`."""
        weights = importance_of(tensor, self._importance)
        try:
            return tensor.made(read, None if weights is None else weights.to(device))
        except OverflowError as error:
            raise UnsupportedModelError(
                f"{self._checkpoint.name} has weights in {tensor.entry.name} that no type of .gguf files with numbers "
                f"in float16 holds ({error}): take quant_type='BF16', or a folder"
            ) from error

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """See `Planner`: what is planned is written, not loaded."""
        raise NotImplementedError(f"{self.file_name} is not written yet")

    def _places(self, layer: str) -> list[Place]:
        """Return where the weight of a module, by its full name, goes in this file."""
        places = places_of(f"{layer}.weight", self._architecture)
        return [place for place in places if place.name in self._written]

    def _plan(self, layer: Layer) -> LayerPlan:
        """Return the plan of a module by its tensor in the file."""
        found = [(self._written[place.name], place.expert) for place in self._places(layer.name)]
        if not found:
            return layer.left_alone("has no tensor of its own in the file")
        nbytes = sum(one_share(tensor.entry, expert) for tensor, expert in found)
        types = {tensor.type_.name for tensor, _ in found}
        plan = layer.replaced(nbytes, disk_bytes=nbytes, working_bytes=nbytes)
        usual = MIXES[self._quant_type].base
        return plan if types == {usual} else replace(plan, adjusted=f"as {', '.join(sorted(types))}")


def _tensors(checkpoint: "Checkpoint") -> Mapping[str, Any]:
    """Return what has the shapes of the tensors of a checkpoint, by name; nothing is read."""
    if checkpoint.expand is None:
        return checkpoint.tensors
    tied = checkpoint.skeleton.all_tied_weights_keys
    return {name: tensor for name, tensor in checkpoint.skeleton.state_dict().items() if name not in tied}


def _notes(file: FilePlan, quant_type: str, given: Collection[str]) -> tuple[str, ...]:
    """Tell the types of all tensors, of how many llama.cpp did not choose them, and what rows that do not divide get.

    Args:
        file: the whole.
        quant_type: a name of `MIXES`.
        given: the tensors that have another type than llama.cpp's choice.
    """
    counts = Counter(tensor.type_.name for tensor in file.tensors)
    types = ", ".join(f"{count} x {name}" for name, count in counts.most_common())
    but = f" but for {len(given)} tensors" if given else ""
    notes = [f"tensors in the file: {types}; llama.cpp's choice for {quant_type}{but}"]
    base = BLOCK_TYPES[MIXES[quant_type].base]
    odd = [
        tensor
        for tensor in file.tensors
        if len(tensor.entry.shape) > 1
        and tensor.type_.name != "F32"
        and tensor.entry.shape[-1] % base.block_size
        and tensor.entry.name not in given
    ]
    if odd:
        width = odd[0].entry.shape[-1]
        names = ", ".join(sorted({tensor.type_.name for tensor in odd}))
        notes.append(
            f"{len(odd)} tensors have rows that are no multiple of {base.block_size}, such as {width}: "
            f"they become {names} instead, as by llama.cpp"
        )
    return tuple(notes)
