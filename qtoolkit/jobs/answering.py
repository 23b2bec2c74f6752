"""Ask a model and its quantized form the same, one after the other, so that one of them is in memory at a time."""

from os import PathLike
from typing import Any

from qtoolkit.errors import InsufficientMemoryError, oneline
from qtoolkit.evaluation.generation import continue_text
from qtoolkit.jobs.checkpoint_loading import run_loading
from qtoolkit.records import Answers, OnProgress, ProgressEvent
from qtoolkit.requests import LoadRequest


def answer_both(
    model: str | PathLike[str],
    quantized: Any,
    prompt: str,
    *,
    device: str = "auto",
    max_new_tokens: int = 40,
    on_progress: OnProgress,
) -> Answers:
    """Continue a prompt with a quantized model, then with what it was made from.

    Args:
        model: what it was made from: a Hub id, a folder or a `.gguf` file.
        quantized: a saved folder, or a `QuantizedModel`.
        prompt: the text to continue.
        device: where a model is loaded: "auto", "cpu" or "cuda".
        max_new_tokens: tokens to add at most.
        on_progress: called before each answer, and at the end.

    Returns:
        Both answers. Where the model in full precision does not fit in memory, that sentence in place of its answer.

    Raises:
        QToolkitError: the quantized model does not load or does not answer; as `qtoolkit.load`.
    """

    def tell(done: int, detail: str) -> None:
        on_progress(ProgressEvent("evaluate", done, 2, "runs", detail))

    tell(0, "after")
    loaded = run_loading(LoadRequest(quantized, device=device)) if isinstance(quantized, str | PathLike) else quantized
    tokenizer = loaded.tokenizer
    after = loaded.generate(prompt, max_new_tokens=max_new_tokens)
    del loaded
    tell(1, "before")
    try:
        original = run_loading(LoadRequest(model, device=device))
        before = continue_text(original, tokenizer, prompt, max_new_tokens=max_new_tokens)
    except InsufficientMemoryError as error:
        before = f"not asked: {oneline(error)}"
    tell(2, "")
    return Answers(prompt=prompt, before=before, after=after)
