"""Round weights to the block types of `.gguf` files, each block with the scales that a search finds best."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from qtoolkit.formats import FileFormat, FilePlanner, Layer, get_format
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.method import Method, Offer, Outcome
from qtoolkit.records import LayerPlan, OnProgress, Plan
from qtoolkit.requests import option

if TYPE_CHECKING:
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.stream.journal import JournalLocation


_DEFAULT = "Q4_K_M"


@dataclass(frozen=True, kw_only=True)
class GGUF(MethodConfig):
    """A `.gguf` file for llama.cpp, Ollama and LM Studio, with the types that llama.cpp's own quantizer chooses.

    Q4_K_M takes 4.84 bits a weight in a Llama of 7 billion weights, by its plan, and more in small models, whose
    embeddings are a larger share. The names are llama.cpp's: `_K` are super-blocks of 256 weights with scales of their
    own, `_0` and `_1` blocks of 32; S and M say how many tensors get more bits. `GGUF("Q8_0")` is
    `GGUF(quant_type="Q8_0")`.
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
    exclude: tuple[str, ...] = option(
        (), help="modules that stay in 16 bits, by name, by the end of the name, or by pattern (*.o_proj)"
    )

    modelfile: bool = option(False, help="write a Modelfile beside the file, of which `ollama create` makes a model")

    def __new__(cls, quant_type: str = _DEFAULT, **values: Any) -> Self:
        """Take the type of a file by its place too, as everybody writes it."""
        return super().__new__(cls, quant_type=quant_type, **values)


class BlockRounding(Method):
    """Round each tensor by itself, and write the file; a `FileFormat` plans and stores."""

    config_class = GGUF
    title = "GGUF"
    summary = "a file for llama.cpp, Ollama and LM Studio (F16 to Q2_K); no calibration"
    writes_file = True
    # Others expand the weights to 16 bits, so that for them the size of the file is not what using it takes.
    offered_for = ("llama.cpp", "ollama", "lm-studio")
    # SmolLM2 tells nothing of the others: 256 divides none of its rows, so that most of it becomes Q5_0 or Q5_1.
    offers = (
        Offer({"quant_type": "Q8_0"}, 1.002),
        Offer({"quant_type": "Q5_K_M"}, None),
        Offer({"quant_type": "Q4_K_M"}, None),
    )
    recipes = ({},)

    def planner_of(self, checkpoint: "Checkpoint", config: Any) -> FilePlanner:
        """See `Method`."""
        format_ = get_format(config.format)
        assert isinstance(format_, FileFormat)
        return format_.planner(checkpoint, config.to_dict(), config.excludes)

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
        """See `Method`: nothing is quantized before the file is written."""
        planner = self.planner_of(checkpoint, config)
        return Outcome(None, notes=planner.file_notes, file=planner)


METHOD = BlockRounding()
