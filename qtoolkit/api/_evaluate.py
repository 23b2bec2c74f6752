"""Define the verb `evaluate`."""

from qtoolkit.jobs.evaluating import run_evaluation
from qtoolkit.jobs.evaluation_workers import run_shared_evaluation
from qtoolkit.records import QualityReport
from qtoolkit.requests import EvaluateRequest, verb


@verb(EvaluateRequest)
def evaluate(request: EvaluateRequest) -> QualityReport:
    """Measure what a model lost: perplexity on a text, and how far its predictions moved from its base's.

    A base in full precision that is named is read block by block, before the model is loaded: the two are never in
    memory together, and no logits of the base are kept. Of wikitext2 and c4 the split is taken that nothing is
    calibrated on; a file is .txt, .md, .raw, .jsonl or .parquet. The revision is the model's, not the base's. An
    object with `logits` takes `input_ids` int64 [1, seq_len] and returns [1, seq_len, vocabulary].

    With `executor=` each worker measures some of the windows; figures are those of one process with as many threads
    as a worker has, to the last digit. Speed is not measured then.

    Raises:
        ConfigError: a text that is too short, or that the model was calibrated on; another vocabulary than the base's.
        CheckpointError: a model computes NaN.
        QToolkitError: as `load`.
    """
    return run_evaluation(request) if request.executor is None else run_shared_evaluation(request)
