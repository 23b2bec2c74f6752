"""The format GGUF: one file with weights in blocks and the tokenizer, as llama.cpp, Ollama and LM Studio run it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import CheckpointError
from qtoolkit.files import path_of
from qtoolkit.formats.base import Values
from qtoolkit.formats.file_format import FileFormat

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qtoolkit.formats.base import Reader
    from qtoolkit.formats.file_format import FilePlanner, LowRankChange
    from qtoolkit.formats.file_of_codes import FileOfCodes, Unheld
    from qtoolkit.formats.layer_codes import LayerCodes
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted

__all__ = ["FORMAT"]

QUANT_METHOD = "gguf"


class GGUFFormat(FileFormat):
    """Store, read and describe `.gguf` files, and the folders that qtoolkit puts around them."""

    name = quant_method = tag = library = QUANT_METHOD
    packages = ("gguf",)
    suffix = ".gguf"
    program, binding = "llama.cpp", "llama_cpp"
    own_file_names = ("Modelfile", "imatrix.gguf_file")
    takes_codes = True

    def file_type(self, values: Values) -> str:
        """See `FileFormat`."""
        from qtoolkit.formats.gguf.mixes import MIXES

        quant_type = values.get("quant_type")
        return quant_type if isinstance(quant_type, str) and quant_type in MIXES else ""

    def commands(self, repo_id: str, options: Values) -> tuple[str, ...]:
        """See `FileFormat`: as the documentation of each program has them (llama.cpp, Ollama, LM Studio's `lms`)."""
        chosen = f":{self.file_type(options)}".rstrip(":")
        return (
            f"llama-cli -hf {repo_id}{chosen}  # llama.cpp",
            f"ollama run hf.co/{repo_id}{chosen}  # Ollama",
            f"lms get https://huggingface.co/{repo_id}{chosen.replace(':', '@')}  # LM Studio",
        )

    def method_of(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """See `Format`."""
        from qtoolkit.formats.gguf.mixes import MIXES

        quant_type = values.get("quant_type")
        if not isinstance(quant_type, str) or quant_type not in MIXES:
            raise CheckpointError(
                f"its config.json says quant_type {quant_type!r:.40}, not one of {', '.join(MIXES)}: "
                "get the folder again"
            )
        return QUANT_METHOD, {"quant_type": quant_type}

    def planner(
        self,
        checkpoint: "Checkpoint",
        options: Values,
        left: Callable[[str], bool],
        types: Callable[[str], str | None],
        *,
        importance: "Mapping[str, torch.Tensor] | None" = None,
    ) -> "FilePlanner":
        """See `FileFormat`."""
        from qtoolkit.checkpoints.imatrix import read_imatrix
        from qtoolkit.formats.gguf.file_planner import GGUFPlanner

        if importance is None and options.get("imatrix") is not None:
            importance = read_imatrix(path_of(options["imatrix"], "imatrix"))
        return GGUFPlanner(
            checkpoint,
            options["quant_type"],
            left,
            types,
            importance=importance,
            modelfile=options.get("modelfile", False),
        )

    def file_of_codes(
        self,
        checkpoint: "Checkpoint",
        model: "PreTrainedModel",
        layers: "Mapping[str, LayerCodes]",
        *,
        lossy: bool,
        wider: bool,
    ) -> "FileOfCodes | Unheld":
        """See `FileFormat`: codes of 4, 5 and 8 bits, in groups of whole blocks of 32 inputs."""
        from qtoolkit.formats.gguf.coded_file import plan_coded_file

        return plan_coded_file(checkpoint, model, layers, lossy=lossy, wider=wider)

    def quantized_layers(self, file: Path, config: Any, names: Iterable[str]) -> dict[str, int]:
        """See `FileFormat`."""
        from qtoolkit.formats.gguf.adapter_file import quantized_layers

        return quantized_layers(file, config, names)

    def write_adapter(
        self, path: Path, changes: "Mapping[str, LowRankChange]", *, config: Any, name: str, in_8_bits: bool = False
    ) -> None:
        """See `FileFormat`: for llama.cpp's `--lora`."""
        from qtoolkit.formats.gguf.adapter_file import write_adapter_file

        write_adapter_file(path, changes, config=config, name=name, in_8_bits=in_8_bits)

    def problems(self, folder: Path, values: Values) -> Sequence[str]:
        """See `Format`: what the config says of the types, and the folder of the tokenizer, which the file says too."""
        from qtoolkit.formats.gguf.reader import tokenizer_problem, type_problem

        file = folder / self.file_name(values)
        if not file.is_file():
            return ()
        return tuple(filter(None, [type_problem(file, values.get("quant_type")), tokenizer_problem(file)]))

    def compare_tokens(self, file: Path) -> "Noted[str]":
        """See `FileFormat`."""
        from qtoolkit.formats.gguf.reader import compare_with_tokenizer

        return compare_with_tokenizer(file)

    def bytes_by_type(self, file: Path) -> Mapping[str, int]:
        """See `FileFormat`."""
        from qtoolkit.formats.gguf.reader import bytes_by_type

        return bytes_by_type(file)

    def reader(self, checkpoint: "Checkpoint") -> "Reader":
        """See `Format`."""
        from qtoolkit.formats.gguf.reader import GGUFReader

        return GGUFReader(checkpoint)


FORMAT = GGUFFormat()
