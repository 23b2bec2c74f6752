"""Generate the likeliest tokens with a static cache, on a GPU by one CUDA graph: a token waits for no launches then."""

import weakref
from collections.abc import Callable, Collection
from typing import Any

import torch

from qtoolkit.errors import memory_cause, oneline

# What a generation config may say beside its defaults: which tokens begin, end and pad, and how tokens are drawn, which
# the likeliest ones are not.
_HARMLESS = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "max_new_tokens", "use_cache"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "transformers_version", "_from_model_config"),
}
# Models whose step no graph holds.
_without_graph: "weakref.WeakSet[Any]" = weakref.WeakSet()


def takes_graph(model: Any) -> bool:
    """Check whether a model on a GPU generates by a graph what its own `generate` would: the likeliest tokens alone."""
    if model.device.type != "cuda" or model in _without_graph or not getattr(model, "_can_compile_fullgraph", False):
        return False
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return False
    said = model.generation_config.to_diff_dict()
    return {name for name, value in said.items() if value not in (None, False)} <= _HARMLESS


def generate_by_graph(
    model: Any, tokens: torch.Tensor, *, max_new_tokens: int, ends: Collection[int], on_note: Callable[[str], None]
) -> torch.Tensor | None:
    """Continue tokens int64 [1, tokens] with the likeliest ones; return all, int64 [1, tokens + new].

    None where the model's step cannot be captured, or another token comes of it; a note says why.

    Args:
        model: of which `takes_graph`.
        tokens: the prompt.
        max_new_tokens: tokens to add at most.
        ends: tokens after which nothing is added.
        on_note: called with the reason.
    """
    try:
        with torch.no_grad():
            return _generate(model, tokens, max_new_tokens=max_new_tokens, ends=ends)
    except Exception as error:  # what torch and the layers of any model raise while they are captured
        if memory_cause(error):
            raise
        _without_graph.add(model)
        on_note(f"generated without a CUDA graph, which is slower: {oneline(error)}")
        return None


def _generate(model: Any, tokens: torch.Tensor, *, max_new_tokens: int, ends: Collection[int]) -> torch.Tensor:
    """Do what `generate_by_graph` does, or raise."""
    from transformers import StaticCache

    cache = StaticCache(config=model.config, max_cache_len=tokens.shape[1] + max_new_tokens)
    # [1, 1]: each step reads it, and writes the next token into it.
    token = model(tokens, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    others = [layer for layer in cache.layers if type(layer).__name__ != "StaticLayer"]
    if others:
        raise RuntimeError(f"a cache has a {type(others[0]).__name__}, whose steps differ")

    def step() -> None:
        token.copy_(model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1))

    replay: Callable[[], None] | None = None
    new = [token.clone()]
    while len(new) < max_new_tokens and int(new[-1]) not in ends:
        # The first step by itself: kernels are compiled, and caches of libraries filled.
        if len(new) == 2 and token.is_cuda:
            replay = _captured(step, [token, *(layer.cumulative_length for layer in cache.layers)])
        (replay or step)()
        new.append(token.clone())
    return torch.cat([tokens, *new], dim=1)


def _captured(step: Callable[[], None], state: list[torch.Tensor]) -> Callable[[], None]:
    """Capture a step that changes a state in place; return what replays it, seen to change the state as the step does.

    Raises:
        RuntimeError: it cannot be captured, or does something else then.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    before = [tensor.clone() for tensor in state]
    results = []
    for run in (step, graph.replay):
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        run()
        results.append([tensor.clone() for tensor in state])
    for tensor, value in zip(state, before, strict=True):
        tensor.copy_(value)
    if not all(map(torch.equal, *results)):
        raise RuntimeError("the graph's token is not the model's")
    return graph.replay
