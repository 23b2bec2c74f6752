"""Measure every method and format alike: perplexity, divergence from the base model, and speed."""

from qtoolkit.evaluation.generation import continue_text, measure_generation
from qtoolkit.evaluation.scoring import LoadedScorer, OpenedScorer, Predictor, Scorer, StreamedScorer
from qtoolkit.evaluation.token_losses import measure_quality

__all__ = [
    "LoadedScorer",
    "OpenedScorer",
    "Predictor",
    "Scorer",
    "StreamedScorer",
    "continue_text",
    "measure_generation",
    "measure_quality",
]
