"""Run benchmark tasks on a model that is loaded, or load it first."""

from os import PathLike

from qtoolkit.evaluation.lm_eval_tasks import run_tasks
from qtoolkit.formats import quiet_layers
from qtoolkit.jobs.checkpoint_loading import load_opened
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.measure.guard import explained
from qtoolkit.models.tokenizer import find_tokenizer
from qtoolkit.planning.device import resolve_device
from qtoolkit.quantized import QuantizedModel
from qtoolkit.records import TaskReport
from qtoolkit.requests import ModelSource, RunTasksRequest


@explained("the tasks", "give a smaller batch_size")
def run_benchmark_tasks(request: RunTasksRequest) -> TaskReport:
    """Ask a model the questions of tasks, as `qtoolkit.run_tasks` describes."""
    model = request.model
    tokenizer = request.tokenizer
    if isinstance(model, str | PathLike):
        # A plain model that is loaded knows neither its name nor its tokenizer.
        checkpoint = open_source(model, ModelSource(tokenizer=tokenizer), quantized=True)
        name = checkpoint.name
        tokenizer = checkpoint.tokenizer
        model = load_opened(checkpoint, resolve_device("auto"))
    else:
        name = getattr(model, "name_or_path", "") or type(model).__name__
    if isinstance(model, QuantizedModel):
        name = model.name
        tokenizer = tokenizer or model.tokenizer
        model = model.model
    with quiet_layers():
        return run_tasks(
            model,
            tokenizer or find_tokenizer(model.name_or_path),
            request.tasks,
            name=name,
            limit=request.limit,
            num_fewshot=request.num_fewshot,
            batch_size=request.batch_size,
        )
