"""Define the verb `compare`."""

from qtoolkit.jobs.comparing import run_comparison
from qtoolkit.records import Comparison
from qtoolkit.requests import CompareRequest, verb


@verb(CompareRequest)
def compare(request: CompareRequest) -> Comparison:
    """Quantize a model in several ways, measure each on one text, and put them side by side.

    The model's own pass over the text is made once. One candidate at a time is in memory. One that fails gets a row
    with its error, and the others go on.

    A path is a folder of a checkpoint or a `.gguf` file. Each result is written as soon as it is measured, and `resume`
    takes it if all that it depends on is the same. `memory` limits which one is `best`.

    An executor is a `ProcessPoolExecutor` or Dask's `client.get_executor()`, for example. Workers read the model by its
    name, with the Hub token of their own machine.

    Raises:
        QToolkitError: before work starts where that can be; as `quantize` and `evaluate`.
    """
    return run_comparison(request)
