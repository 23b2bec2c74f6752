"""Define the verb `run_tasks`."""

from qtoolkit.jobs.benchmark_tasks import run_benchmark_tasks
from qtoolkit.records import TaskReport
from qtoolkit.requests import RunTasksRequest, verb


@verb(RunTasksRequest)
def run_tasks(request: RunTasksRequest) -> TaskReport:
    """Ask a model the questions of benchmark tasks (hellaswag, arc_easy, mmlu, ...) through EleutherAI's lm-eval.

    The model, its tokenizer, random states, the environment and logging are left as they were. lm-eval draws progress
    bars of its own, and downloads a task's questions from the Hub. A folder of tasks is written with a slash
    ("./my_tasks"); its YAML files may name Python functions beside them, which run: take folders that you trust. A
    `limit` of few questions tells little.

    Returns:
        Each metric of each task with its standard error, the number of questions and the task's version.

    Raises:
        QToolkitError: no tokenizer, no such task, one that cannot be loaded or run here; before the model is asked.
    """
    return run_benchmark_tasks(request)
