"""Define the options of `qtoolkit.quantize`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qtoolkit.requests.for_reader import ForReader
from qtoolkit.requests.model import CONFIG, MODEL, ModelSource, OnDevice, WithProgress
from qtoolkit.requests.option_field import describe
from qtoolkit.requests.output import OutputFolder, Resumable

if TYPE_CHECKING:
    from qtoolkit.methods import MethodConfig


@dataclass(frozen=True)
class QuantizeRequest(OutputFolder, ForReader, Resumable, OnDevice, ModelSource, WithProgress):
    """Hold a model, a config, and how the job is done."""

    model: Any = field(metadata=describe(f"{MODEL}, which stays as it is"))
    config: "MethodConfig | str | Any" = field(metadata=describe(CONFIG))
