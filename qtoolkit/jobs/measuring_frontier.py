"""Find the frontier of a model's recipes: a comparison of those that are near what is wanted."""

import time

from qtoolkit.jobs.comparing import KEPT, measure_candidates, open_subject
from qtoolkit.jobs.recipes import choose_recipes, read_recipes
from qtoolkit.measure.guard import explained
from qtoolkit.records import Frontier, by_size
from qtoolkit.requests import FrontierRequest
from qtoolkit.texts.texts import check_texts


@explained("the frontier", f"give fewer num_tokens; {KEPT}")
def run_frontier(request: FrontierRequest) -> Frontier:
    """Find the frontier, as `qtoolkit.frontier` describes."""
    started = time.monotonic()
    check_texts(request.text, "text")
    candidates = read_recipes(request.configs)
    subject = open_subject(request, "the frontier")
    chosen = choose_recipes(request, subject, candidates)
    measured = measure_candidates(request, subject, chosen.candidates)
    return Frontier(
        source=subject.checkpoint.record(),
        text=measured.windows.name,
        text_fingerprint=measured.windows.fingerprint,
        results=by_size(measured.results),
        unmeasured=chosen.unmeasured,
        memory_limit=request.memory_limit,
        sizes=request.wanted_sizes,
        seconds=time.monotonic() - started,
        notes=measured.notes,
    )
