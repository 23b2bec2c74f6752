"""Store weights in the block types of `.gguf` files: each block with the scales that a search finds best."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from qtoolkit.errors import ConfigError
from qtoolkit.formats import FileFormat, FilePlanner, Layer, get_format
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.method import Method, Outcome
from qtoolkit.records import LayerPlan, OnProgress, Plan
from qtoolkit.requests import option
from qtoolkit.texts.mixtures import read_mixture

if TYPE_CHECKING:
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.stream.journal import JournalLocation


_DEFAULT = "Q4_K_M"
# The types whose levels are coarse enough for a better choice of codes to matter.
_EXACT = ("Q8_0", "F16", "BF16")
_OF_THE_TEXT = ("calibration_column", "num_samples", "seq_len")


@dataclass(frozen=True, kw_only=True)
class GGUF(MethodConfig):
    """A `.gguf` file for llama.cpp, Ollama and LM Studio, with the types that llama.cpp's own quantizer chooses.

    Q4_K_M takes 4.84 bits a weight in a Llama of 7 billion weights, by its plan, and more in small models, whose
    embeddings are a larger share. The names are llama.cpp's: `_K` are super-blocks of 256 weights with scales of their
    own, `_0` and `_1` blocks of 32; S and M say how many tensors get more bits. `GGUF("Q8_0")` is
    `GGUF(quant_type="Q8_0")`.

    With a calibration text, codes are solved as GPTQ does (arXiv 2210.17323), on the same scales and in a file of the
    same size: each layer's outputs on the text change least. It takes a pass over the text, minutes to hours.
    """

    method: ClassVar[str] = "gguf"
    format: ClassVar[str] = "gguf"

    quant_type: str = option(
        _DEFAULT,
        choices=(
            *("Q2_K", "Q3_K_M", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_K_S", "Q4_K_M", "Q4_1", "Q5_0", "Q5_K_M", "Q5_1"),
            *("Q6_K", "Q8_0"),
            *("F16", "BF16"),
        ),
        help="how weights are stored, by llama.cpp's names, from the smallest to the largest file",
        by_place=True,
    )
    imatrix: str | None = option(
        None,
        help="file of the importance of each input, as llama-imatrix writes it: errors are weighed by it",
        empty="all inputs weigh alike",
        metavar="FILE",
        absent=None,
        is_file=True,
    )
    exclude: tuple[str, ...] = option(
        (), help="modules that stay in 16 bits, by name, by the end of the name, or by pattern (*.o_proj)"
    )

    calibration: Any = option(
        None,
        help="text to choose codes by, as GPTQ does: wikitext2, c4, self, a file or folder of texts, chats or tables, "
        "a list, a Dataset, or several with their shares (wikitext2=0.5,chat.jsonl=0.5)",
        empty="each tensor is rounded by itself",
        absent=None,
    )
    calibration_column: str | None = option(
        None,
        help="column of the calibration text that holds texts or chats; None chooses one by its name",
        absent=None,
    )
    num_samples: int = option(128, help="samples of the calibration text", unit="samples", least=1, absent=128)
    seq_len: int = option(2048, help="length of a sample", unit="tokens", least=1, absent=2048)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "calibration", read_mixture(self.calibration))
        if self.calibration is None:
            absent = self.absent()
            given = next((name for name in _OF_THE_TEXT if getattr(self, name) != absent[name]), None)
            if given is not None:
                raise ConfigError(f"GGUF: {given} is of a calibration text: give calibration too, or leave {given} out")
        elif self.imatrix is not None:
            raise ConfigError("GGUF: calibration chooses codes by a text, and imatrix by a file: give one of them")
        elif self.quant_type in _EXACT:
            raise ConfigError(
                f"GGUF: {self.quant_type} has no codes that a text would choose better: leave out calibration, or give "
                "fewer bits"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values; calibration text that is no file is replaced by its description."""
        from qtoolkit.texts.calibration_sources import describe_calibration

        values = super().to_dict()
        return values if self.calibration is None else values | {"calibration": describe_calibration(self.calibration)}

    def __new__(cls, quant_type: str = _DEFAULT, **values: Any) -> Self:
        """Take the type of a file by its place too, as everybody writes it."""
        return super().__new__(cls, quant_type=quant_type, **values)


class BlockRounding(Method):
    """Round each tensor by itself, or solve its codes, and write the file; a `FileFormat` plans and stores."""

    config_class = GGUF
    title = "GGUF"
    summary = "a file for llama.cpp, Ollama and LM Studio (F16 to Q2_K); its codes solved on a text if one is given"
    writes_file = True

    def resumes(self, config: GGUF) -> bool:
        """See `Method`: where there is a calibration."""
        return config.calibration is not None

    def resolve(self, config: GGUF, dtype: str, device: str) -> GGUF:
        """See `Method`: refuse a calibration text that cannot be used."""
        from qtoolkit.texts.calibration_sources import check_calibration

        if config.calibration is not None:
            check_calibration(config.calibration, config.calibration_column)
        return config

    def calibrated_by(self, options: Mapping[str, Any]) -> str:
        """See `Method`."""
        if options.get("imatrix") is None:
            return super().calibrated_by(options)
        return "The importance of inputs was that of a file, which is needed to make the same model: see the notes."

    def planner_of(self, checkpoint: "Checkpoint", config: Any) -> FilePlanner:
        """See `Method`."""
        format_ = get_format(config.format)
        assert isinstance(format_, FileFormat)
        if config.calibration is None:
            return format_.planner(checkpoint, config.to_dict(), config.excludes)
        from qtoolkit.methods.gptq import GPTQ
        from qtoolkit.methods.gptq.solved_file import SolvedFile

        solving = GPTQ(
            calibration=config.calibration,
            calibration_column=config.calibration_column,
            num_samples=config.num_samples,
            seq_len=config.seq_len,
            refine=0,
        )
        return SolvedFile(format_.planner(checkpoint, config.to_dict(), config.excludes, importance={}), solving)

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        """See `Planner`: the planner of a checkpoint does it."""
        raise NotImplementedError(f"{self.name} plans the tensors of a whole model: see planner_of")

    def quantize(
        self,
        checkpoint: "Checkpoint",
        config: Any,
        plan: Plan,
        on_progress: OnProgress,
        journal: "JournalLocation | None" = None,
    ) -> Outcome:
        """See `Method`: without a calibration, nothing is quantized before the file is written."""
        planner = self.planner_of(checkpoint, config)
        if self.resumes(config):
            from qtoolkit.methods.gptq.solved_file import SolvedFile

            assert isinstance(planner, SolvedFile)
            return planner.solve(checkpoint, config, plan, on_progress, journal)
        return Outcome(None, notes=planner.file_notes, file=planner)


METHOD = BlockRounding()
