"""Define the options of `qtoolkit.run_tasks`."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.requests.model import WithTokenizer
from qtoolkit.requests.option_field import describe, option


@dataclass(frozen=True)
class RunTasksRequest(WithTokenizer):
    """Hold a model, and the benchmark tasks that it is asked."""

    model: Any = field(metadata=describe("a `QuantizedModel`, a loaded `PreTrainedModel`, or what `load` reads"))
    tasks: str | PathLike[str] | Sequence[str | PathLike[str]] = field(
        metadata=describe("names of lm-eval's tasks, groups or tags, or folders of YAML tasks, of which all are run")
    )
    _: KW_ONLY
    limit: int | None = option(
        None, help="questions of each task, the first ones", empty="all", unit="questions", least=1
    )
    num_fewshot: int | None = option(
        None, help="solved examples before each question", empty="what each task says", unit="examples", least=0
    )
    batch_size: int = option(8, help="sequences that the model reads at once", unit="sequences", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks: Any = [self.tasks] if isinstance(self.tasks, str | PathLike) else self.tasks
        if not isinstance(tasks, Sequence) or not all(isinstance(one, str | PathLike) for one in tasks):
            raise ConfigError(f"tasks must be names of tasks, or folders, got {self.tasks!r:.60}")
