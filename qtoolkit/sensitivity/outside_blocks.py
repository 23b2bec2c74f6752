"""Predict what rounding the output head and the token embedding costs, each alone, a few of their rows at a time.

Their gradients would take as much memory as they do in float32 and are not needed. A head W changed by dW changes the
logits of a token with the inputs h by d = dW h, and KL(p || q) ~ 1/2 Var_p(d): the Fisher information of its output in
closed form, so that few tokens tell as much as many labels drawn. Of an embedding, G . dW is the sum over the tokens of
a sample of g_t . dW[x_t], where g_t is the gradient of the sample's loss with respect to what is looked up.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qtoolkit.models.structure import embedding_factor
from qtoolkit.stream.backward import Top, tokens_with_logits
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.current_block import weight_of
from qtoolkit.stream.samples import lookup_gradients

# Returns rows [rows, in] float32 of a weight with each of its choices.
Rounded = Callable[[Tensor], Sequence[Tensor]]
# Weights of which all choices are in memory at one time.
AT_ONCE = 2**20


def head_losses(top: Top, name: str, tokens: Tensor, rounded: Rounded) -> Tensor:
    """Return what rounding the output head is predicted to add to the loss of each sample.

    Args:
        top: what stands above the blocks, in memory.
        name: of the output head.
        tokens: int64 [samples, tokens].
        rounded: rounds rows of its weight.

    Returns:
        Nats per token, float64 [samples, choices].
    """
    head = top.model.get_submodule(name)
    weight = weight_of(head)
    count, length = tokens.shape
    each = min(length, max(1, tokens_with_logits(len(weight)) // count))
    places = torch.arange(1, each + 1) * length // each - 1
    outputs = torch.cat([batch[:, places] for batch in top.outputs])  # [samples, each, hidden]
    inputs, chances, slope = _at_head(top, head, tokens[:, places], outputs)
    first: list[Tensor] = []
    second: list[Tensor] = []
    for some in torch.arange(len(weight)).split(max(1, AT_ONCE // weight.shape[1])):
        rows = weight[some].float()
        changes = torch.stack([one - rows for one in rounded(rows)])  # [choices, rows, in]
        change = (inputs @ changes.mT) * slope[:, some]  # of the logits, [choices, tokens, rows]
        first.append((change * chances[:, some]).sum(-1))
        second.append((change.square() * chances[:, some]).sum(-1))
    mean, square = (torch.stack(parts).double().sum(0) for parts in (first, second))  # [choices, tokens]
    return (square - mean.square()).div(2).reshape(-1, count, each).mean(-1).T.cpu()  # -> [samples, choices]


def table_losses(
    streamed: StreamedModel, name: str, tokens: Tensor, gradients: Sequence[Tensor], rounded: Rounded
) -> Tensor:
    """Return what rounding the rows that are looked up is predicted to add to the loss of each sample.

    Args:
        streamed: the model.
        name: of the token embedding.
        tokens: int64 [samples, tokens].
        gradients: with respect to the first block's inputs, of `run_backward`.
        rounded: rounds rows of its weight.

    Returns:
        Nats per token, float64 [samples, choices].
    """
    with streamed.outside() as model:
        module: Any = model.get_submodule(name)
        slopes = torch.cat(lookup_gradients(streamed, model, module, tokens, gradients)).float()
        slopes *= embedding_factor(module) or 1.0
        used, place = tokens.unique(return_inverse=True)
        sums: Tensor | None = None
        for some in torch.arange(len(used)).split(max(1, AT_ONCE // module.weight.shape[1])):
            rows = module.weight[used[some]].detach().float()
            changes = torch.stack([one - rows for one in rounded(rows)]).cpu()  # [choices, rows, in]
            sample, token = ((place >= some[0]) & (place <= some[-1])).nonzero(as_tuple=True)
            dots = (changes[:, place[sample, token] - some[0]] * slopes[sample, token]).sum(-1)  # [choices, tokens]
            sums = torch.zeros(len(changes), len(tokens), dtype=torch.float64) if sums is None else sums
            sums.index_add_(1, sample, dots.double())
    assert sums is not None
    return sums.T.square() / (2 * tokens.shape[1])


def _at_head(top: Top, head: nn.Module, tokens: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run what stands above the blocks on some of their outputs [samples, tokens, hidden].

    Returns:
        Of all samples one after another: the inputs of the head [tokens, hidden]; the chances of each word, and the
        slope of its logit with respect to what the head gives, which is 1 unless the model scales or caps logits: both
        [tokens, vocabulary]; float32.
    """
    inputs: list[Tensor] = []
    given: list[Tensor] = []

    def hook(_module: nn.Module, args: Any, output: Tensor) -> Tensor:
        inputs.append(args[0].detach().flatten(0, -2))
        given.append(output.detach().requires_grad_())
        return given[-1]

    chances, slopes = [], []
    handle = head.register_forward_hook(hook)
    try:
        for sample in range(len(tokens)):
            logits = top.logits(tokens[sample : sample + 1], outputs[sample : sample + 1])  # [tokens, vocabulary]
            (slope,) = torch.autograd.grad(logits.sum(), given[-1])
            chances.append(logits.detach().softmax(-1, dtype=torch.float32))
            slopes.append(slope.flatten(0, -2).float())
    finally:
        handle.remove()
    return torch.cat(inputs).float(), torch.cat(chances), torch.cat(slopes)
