"""Choose what a card says of a model's quality: figures of this very model, and the text they were measured on."""

from typing import Any

from huggingface_hub import EvalResult

from qtoolkit.checkpoints.hub_names import HUB_TEXTS
from qtoolkit.errors import ConfigError
from qtoolkit.publishing.lineage import is_in_memory
from qtoolkit.publishing.patterns import last_part
from qtoolkit.records import QualityReport, Receipt

# Texts that are datasets of the Hub: the name that people know, and the configuration and split that is measured on.
_DATASETS = {
    "wikitext2": ("WikiText-2", "wikitext-2-raw-v1", "test"),
    "c4": ("C4", "en", "validation"),
}
_AGAIN = "measure this model: qt.evaluate(FOLDER, base=...)"


def refuse_foreign_figures(quality: Any, receipt: Receipt) -> None:
    """Refuse a report that was not measured on the model of this receipt, against its base.

    Raises:
        ConfigError: it is no report, of another model, of one that was not saved, or against another base.
    """
    if not isinstance(quality, QualityReport):
        raise ConfigError(f"quality must be what qt.evaluate returns, got {type(quality).__name__}: {_AGAIN}")
    if quality.weights_fingerprint is None:
        raise ConfigError(
            f"quality does not say which saved model {quality.model!r} was: a model is saved first, then measured; "
            f"{_AGAIN}"
        )
    if quality.weights_fingerprint != receipt.weights_fingerprint:
        raise ConfigError(f"quality was measured on other weights than these, on {quality.model!r}: {_AGAIN}")
    source = receipt.source
    base = None if quality.base is None else last_part(quality.base.partition("@")[0])
    if base not in (None, last_part(source.name), source.commit_hash):
        raise ConfigError(f"quality compares with {quality.base!r}, and the base is {source.name!r}: {_AGAIN}")
    if quality.base_commit_hash and is_in_memory(receipt):
        raise ConfigError(
            f"quality compares with commit {quality.base_commit_hash:.40} of {source.name!r}, and this model was made "
            "from one in memory that is not known to be that: measure it with base= the one in memory"
        )
    commits = {quality.base_commit_hash, source.commit_hash} - {None}
    if len(commits) > 1:
        raise ConfigError(
            f"quality compares with commit {quality.base_commit_hash} of {source.name}, and this model was made from "
            f"{source.commit_hash}: give base='{source.name}@{source.commit_hash}'"
        )


def eval_results(quality: QualityReport | None) -> list[EvalResult]:
    """Return the figure that the Hub's metadata has a name for, on a text that is a dataset of the Hub; or nothing.

    It stands as `model-index` in the card. The newer files `.eval_results/*.yaml` are for benchmarks of the Hub's own
    list, with their leaderboards; no text that perplexity is measured on is among them
    (https://huggingface.co/docs/hub/eval-results).
    """
    if quality is None or quality.text not in _DATASETS:
        return []
    name, config, split = _DATASETS[quality.text]
    how = {
        "standard_error": quality.perplexity_se,
        "num_tokens": quality.num_tokens,
        "num_windows": quality.num_windows,
        "seq_len": quality.seq_len,
        "stride": quality.stride,
    }
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=HUB_TEXTS[quality.text].repo_id,
            dataset_name=name,
            dataset_config=config,
            dataset_split=split,
            metric_type="perplexity",
            metric_name="Perplexity per token",
            metric_value=quality.perplexity,
            metric_args={name: value for name, value in how.items() if value is not None},
        )
    ]


def text_name(quality: QualityReport) -> str:
    """Return the text that was measured on, as people call it, without the folders of this machine."""
    if quality.text not in _DATASETS:
        return "text that the base wrote" if quality.text == "self" else last_part(quality.text)
    name, config, split = _DATASETS[quality.text]
    return f"{name} ({HUB_TEXTS[quality.text].repo_id}, {config}, {split} split)"
