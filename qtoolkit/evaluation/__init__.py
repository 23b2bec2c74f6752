"""One ruler for every method and format: what was lost, and how fast the result runs."""

from qtoolkit.evaluation.generation import continue_text, measure_generation
from qtoolkit.evaluation.quality import measure_quality
from qtoolkit.evaluation.scoring import LoadedScorer, OpenedScorer, Predictor, Scorer, StreamedScorer

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
