"""Store weights in the block types of `.gguf` files: each block with the scales that a search finds best."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from qtoolkit.errors import ConfigError
from qtoolkit.formats import FileFormat, FilePlanner, Layer, get_format
from qtoolkit.methods.method import Method, Offer, Outcome
from qtoolkit.methods.mixed_precision import Choice, MixedConfig
from qtoolkit.methods.sharded import SHARDS, refuse_more_than_samples, refuse_one_shard
from qtoolkit.records import LayerPlan, OnProgress, Plan
from qtoolkit.requests import option
from qtoolkit.texts.mixtures import read_mixture
from qtoolkit.texts.texts import is_named

if TYPE_CHECKING:
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.stream.journal import JournalLocation
    from qtoolkit.stream.shards import Workers


_DEFAULT = "Q4_K_M"
# Others expand the weights to 16 bits, so that for them the size of the file is not what using it takes.
_RUN_IT = ("llama.cpp", "ollama", "lm-studio")
# The types whose levels are coarse enough for a better choice of codes to matter.
_EXACT = ("Q8_0", "F16", "BF16")
_OF_THE_TEXT = ("calibration_column", "num_samples", "seq_len", "shards", "solve")
# The types of tensors from the fewest bits to the most, and those that a target gives: of equal bytes, one.
_TENSOR_TYPES = (
    *("Q2_K", "Q3_K", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_K", "Q4_1", "Q5_0", "Q5_K", "Q5_1", "Q6_K", "Q8_0"),
    *("F16", "BF16"),
)
# Bits per weight of the mixes by which files are known (llama.cpp, tools/quantize/README.md, Llama 3.1 8B).
_USUAL_BITS = dict(Q2_K=3.16, Q3_K_M=4.0, Q4_K_S=4.67, Q4_K_M=4.89, Q5_K_M=5.7, Q6_K=6.56, Q8_0=8.5)  # noqa: C408
_GIVEN_TYPES = tuple(name for name in _TENSOR_TYPES if name not in ("Q4_0", "F16", "BF16"))


@dataclass(frozen=True, kw_only=True)
class GGUF(MixedConfig):
    """A `.gguf` file for llama.cpp, Ollama and LM Studio, with the types that llama.cpp's own quantizer chooses.

    Q4_K_M takes 4.84 bits a weight in a Llama of 7 billion weights, by its plan, and more in small models, whose
    embeddings are a larger share. The names are llama.cpp's: `_K` are super-blocks of 256 weights with scales of their
    own, `_0` and `_1` blocks of 32; S and M say how many tensors get more bits. `GGUF("Q8_0")` is
    `GGUF(quant_type="Q8_0")`.

    With a calibration text, codes are solved as GPTQ does (arXiv 2210.17323), on the same scales and in a file of the
    same size: each layer's outputs on the text change least. It takes a pass over the text, minutes to hours.

    With `target_bits` or `target_size`, each tensor gets the type that its sensitivity asks for, and the file has the
    name of the mix that usually takes about as many bits. `rules` give single tensors their types by the names of
    their modules: `GGUF("Q4_K_M", rules={"*.down_proj": {"tensor_type": "Q6_K"}})`.
    """

    method: ClassVar[str] = "gguf"
    format: ClassVar[str] = "gguf"
    mixed: ClassVar[str] = "tensor_type"

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
    tensor_type: str | None = option(
        None,
        choices=(None, *_TENSOR_TYPES),
        help="the type of all tensors alike, as llama-quantize --pure has it",
        empty="each tensor has the type that llama.cpp chooses for quant_type",
        absent=None,
        per_layer=True,
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

    modelfile: bool = option(
        False, help="write a Modelfile beside the file, of which `ollama create` makes a model", absent=False
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
    shards: int = option(1, help=SHARDS, unit="parts", least=1, absent=1)

    solve: bool = option(
        True,
        help="choose codes by the calibration text; false measures the importance of inputs on it alone, rounds by "
        "that, as llama.cpp does with an imatrix, and keeps it as imatrix.gguf_file",
        absent=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "calibration", read_mixture(self.calibration))
        if self.target is not None and self.tensor_type is None and self.quant_type != _DEFAULT:
            name = "target_bits" if self.target_size is None else "target_size"
            raise ConfigError(
                f"GGUF: {name} gives each tensor its type, and so does quant_type={self.quant_type!r}: give one of them"
            )
        if is_named(self.imatrix):
            raise ConfigError(
                f"GGUF: imatrix names a file, and {self.imatrix!r} is none: to measure importance on that text, give "
                f"calibration={self.imatrix!r} and solve=False"
            )
        if self.calibration is None:
            absent = self.absent()
            given = next((name for name in _OF_THE_TEXT if getattr(self, name) != absent[name]), None)
            if given is not None:
                raise ConfigError(
                    f"GGUF: {given}={getattr(self, given)!r:.40} is of a calibration text, and there is none: give "
                    "one as calibration=, or leave it out"
                )
        elif self.imatrix is not None:
            raise ConfigError("GGUF: calibration chooses codes by a text, and imatrix by a file: give one of them")
        elif self.quant_type in _EXACT and self.tensor_type is None and not self.rules:
            raise ConfigError(
                f"GGUF: {self.quant_type} has no codes that a text would choose better: leave out calibration, or give "
                "fewer bits"
            )
        refuse_more_than_samples("GGUF", self.shards, self.num_samples)
        if self.shards > 1 and not self.solve:
            raise ConfigError(
                f"GGUF: shards={self.shards} is of codes that a text chooses, and solve=False measures the importance "
                "of inputs alone, in one pass: leave one of them out"
            )

    @classmethod
    def absent(cls) -> dict[str, Any]:
        """See `MethodConfig`: files from before there were rules and targets have none."""
        return super().absent() | {"rules": {}, "target_bits": None, "target_size": None}

    @property
    def gives_choices(self) -> bool:
        """See `MixedConfig`: a type of all tensors alike is one too."""
        return self.tensor_type is not None or super().gives_choices

    def choices_to_give(self) -> tuple[str, ...]:
        """See `MixedConfig`."""
        return _GIVEN_TYPES

    def meeting(self, base: Choice, rules: Mapping[str, Mapping[str, Any]], *, bits: float) -> Self:
        """See `MixedConfig`: the file has the name of the mix that usually takes about as many bits."""
        nearest = min(_USUAL_BITS, key=lambda name: abs(_USUAL_BITS[name] - bits))
        return replace(self, quant_type=nearest, tensor_type=str(base), rules=rules)

    def begun_as(self, values: Mapping[str, Any]) -> Self:
        """See `MixedConfig`: with the file's name."""
        return replace(super().begun_as(values), quant_type=values["quant_type"])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values; calibration text that is no file is replaced by its description."""
        from qtoolkit.texts.calibration_sources import describe_calibration

        values = super().to_dict()
        if self.shards == 1:
            del values["shards"]
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
    # SmolLM2 tells nothing of the others: 256 divides none of its rows, so that most of it becomes Q5_0 or Q5_1.
    offers = (
        Offer({"quant_type": "Q8_0"}, 1.002, readers=_RUN_IT),
        Offer({"quant_type": "Q5_K_M"}, None, readers=_RUN_IT),
        Offer({"quant_type": "Q4_K_M"}, None, readers=_RUN_IT),
    )
    recipes = ({},)

    def resumes(self, config: GGUF) -> bool:
        """See `Method`: where codes are solved."""
        return config.calibration is not None and config.solve

    def makes_parts(self, config: GGUF) -> bool:
        """See `Method`: tensors that are rounded each by itself."""
        return config.calibration is None

    def refuse_workers(self, config: GGUF, *, option: str = "executor") -> None:
        """See `Method`: one whose text is in one shard, or only tells how important inputs are."""
        if config.calibration is None:
            return
        if not config.solve:
            raise ConfigError(
                "GGUF: the importance of inputs is measured by one pass of the text in one process: leave out "
                f"{option}, or solve=False, or give the file of an earlier pass as imatrix"
            )
        refuse_one_shard("GGUF", config.shards)

    def resolve(self, config: GGUF, dtype: str, device: str) -> GGUF:
        """See `Method`: refuse a calibration text that cannot be used."""
        from qtoolkit.texts.calibration_sources import check_calibration

        if config.calibration is not None:
            check_calibration(config.calibration, config.calibration_column)
        return config

    def calibrated_by(self, options: Mapping[str, Any]) -> str:
        """See `Method`."""
        if options.get("calibration") is not None:
            return "Errors were weighed by the importance of inputs on a text: see the notes."
        if options.get("imatrix") is None:
            return super().calibrated_by(options)
        return "The importance of inputs was that of a file, which is needed to make the same model: see the notes."

    def planner_of(self, checkpoint: "Checkpoint", config: Any) -> FilePlanner:
        """See `Method`."""
        format_ = get_format(config.format)
        assert isinstance(format_, FileFormat)
        if config.calibration is None:
            return format_.planner(checkpoint, config.to_dict(), config.excludes, _types_of(config))
        from qtoolkit.methods.gptq import GPTQ
        from qtoolkit.methods.gptq.solved_file import SolvedFile
        from qtoolkit.methods.weighed_file import WeighedFile

        solving = GPTQ(
            calibration=config.calibration,
            calibration_column=config.calibration_column,
            num_samples=config.num_samples,
            seq_len=config.seq_len,
            shards=config.shards,
            refine=0,
            qep_alpha=GPTQ.qep_alpha if config.solve else 0.0,
        )
        file = format_.planner(checkpoint, config.to_dict(), config.excludes, _types_of(config), importance={})
        return SolvedFile(file, solving) if config.solve else WeighedFile(file, solving)

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
        workers: "Workers | None" = None,
    ) -> Outcome:
        """See `Method`: without a calibration, nothing is quantized before the file is written."""
        planner = self.planner_of(checkpoint, config)
        if config.calibration is not None:
            from qtoolkit.methods.gptq.solved_file import SolvedFile
            from qtoolkit.methods.weighed_file import WeighedFile

            if isinstance(planner, WeighedFile):
                return planner.measure(checkpoint, config, plan, on_progress)
            assert isinstance(planner, SolvedFile)
            return planner.solve(checkpoint, config, plan, on_progress, journal, workers)
        return Outcome(None, notes=planner.file_notes, file=planner)


def _types_of(config: GGUF) -> Callable[[str], str | None]:
    """Return what gives modules their types by name; None where nothing was said of one."""
    return lambda module: config.of(module).tensor_type


METHOD = BlockRounding()
