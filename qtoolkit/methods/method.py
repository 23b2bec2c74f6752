"""Define what every method can do: resolve a config, plan layers from shapes, quantize, load."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from qtoolkit.errors import ConfigError
from qtoolkit.formats import FilePlanner, Layer, Planner, Reader
from qtoolkit.methods.config import MethodConfig
from qtoolkit.records import CalibrationReport, OnProgress, PhasePlan, Plan, ignore_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted
    from qtoolkit.stream.cost import JobShape
    from qtoolkit.stream.journal import JournalLocation


@dataclass(frozen=True)
class Offer:
    """A config that a method suggests where a model does not fit, or where the best config is searched.

    Attributes:
        options: fields of its config; the others have their defaults.
        perplexity_ratio: perplexity as a multiple of bfloat16's: SmolLM2-135M, held-out half of WikiText-2 valid
            (benchmarks/README.md); None where it was not measured.
        in_one_step: false where a layer multiplies in several steps, so that fewer bytes do not make it faster.
        readers: programs by their short names, for which alone it is suggested; empty for any, and for none.
    """

    options: Mapping[str, Any]
    perplexity_ratio: float | None
    in_one_step: bool = True
    readers: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """The result of `Method.quantize`.

    Attributes:
        model: the quantized model, ready to run and to save; None where a file is written.
        calibration: the report of the calibration; None for a method without.
        notes: what was decided, one line each.
        file: what writes the result; None where it is a model in memory.
        footprint: bytes of the model's tensors before it first ran, where it has run: CTRL then rounds its positions,
            and holds fewer; None where it has not.
        is_written: whether the result is in its folder already, and neither a model in memory nor a file to write.
    """

    model: "PreTrainedModel | None"
    calibration: CalibrationReport | None = None
    notes: Sequence[str] = ()
    file: FilePlanner | None = None
    footprint: int | None = None
    is_written: bool = False


class Method(Planner):
    """Base of all methods; a subclass chooses the codes of each layer.

    Attributes:
        config_class: the class of its configs.
        title: its name on a model card; empty for `name`.
        summary: one line for tables and help.
        code_bits: size of a code, where its config has no `bits`.
        symmetric: whether its codes are symmetric, where its config has no `sym`.
        offers: the configs that it suggests.
        recipes: options of the configs that a frontier tries; empty for those of `offers`.
        also_changes: what it changes besides the quantized layers, for a card: "norms take over scales".
    """

    config_class: ClassVar[type[MethodConfig]]
    title: ClassVar[str] = ""
    summary: ClassVar[str]
    code_bits: ClassVar[int | None] = None
    symmetric: ClassVar[bool] = True
    offers: ClassVar[tuple[Offer, ...]] = ()
    recipes: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    also_changes: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """Return the method's name, "gptq"."""
        return self.config_class.method

    def resumes(self, config: Any) -> bool:
        """Check whether a job writes its progress into a journal, and resumes from it. Default: none does."""
        return False

    def planner_of(self, checkpoint: "Checkpoint", config: Any) -> "Method | Reader":
        """Return what plans a model. Default: the method itself, since it looks at layers one by one.

        Args:
            checkpoint: the model in full precision.
            config: resolved.

        Raises:
            UnsupportedModelError: the method takes no such model.
        """
        return self

    def calibrated_by(self, options: Mapping[str, Any]) -> str:
        """Return a sentence for the card of a result without a report of a calibration.

        Args:
            options: fields of its config, which anybody may have edited.
        """
        return "No calibration text was used."

    def makes_parts(self, config: Any) -> bool:
        """Check whether workers make the parts of a result each for itself, without a text. Default: they do not."""
        return False

    def refuse_workers(self, config: Any, *, option: str = "executor") -> None:
        """Refuse a config whose job workers cannot share; `quantize` gets `workers` for one that they can.

        Args:
            config: resolved.
            option: what asks for workers, for the message: `workers` of a plan.

        Raises:
            ConfigError: default, always.
        """
        raise ConfigError(f"{type(config).__name__} is made in one process: leave out {option}")

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """See `Planner`: by default, transformers finds the format's loader by the config of the checkpoint."""
        from qtoolkit.stream.loading import load_streamed

        return load_streamed(checkpoint, None, device=device, on_progress=ignore_progress)

    def sizes_by_choice(self, layer: Layer, config: Any) -> Mapping[Any, int]:
        """See `Planner`: a layer's plan says it."""
        choices = config.choices_to_give()
        return {choice: self.plan_layer(layer, config.choosing(choice)).disk_bytes for choice in choices}

    def phases(self, job: "JobShape", config: Any) -> tuple[PhasePlan, ...]:
        """See `Planner`: by default, one phase that quantizes one weight after the other."""
        from qtoolkit.stream.cost import reading_phase

        working = max((layer.working_bytes - layer.bytes_after for layer in job.layers), default=0)
        return (reading_phase(job, "quantize", "largest layer while it is quantized", working),)

    @abstractmethod
    def quantize(
        self,
        checkpoint: "Checkpoint",
        config: Any,
        plan: Plan,
        on_progress: OnProgress,
        journal: "JournalLocation | None" = None,
    ) -> Outcome:
        """Read the checkpoint's weights and return the quantized model on `plan.device`, ready to run and to save.

        Args:
            checkpoint: the model in full precision.
            config: resolved and fitted.
            plan: exactly the layers of `plan.layers` are quantized.
            on_progress: called with events; it may raise `JobCancelled`.
            journal: where a job that `resumes` writes finished blocks, and reads those of an earlier run; None for
                neither.
        """
