"""Choose the codes of single layers of an otherwise unchanged model: what they lose after correction."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from qtoolkit.methods.gptq import GPTQ
from qtoolkit.methods.gptq.correction import trusted_share
from qtoolkit.methods.gptq.layer_groups import search_groups
from qtoolkit.methods.gptq.layer_inputs import Factored
from qtoolkit.methods.gptq.solver import column_order, factor, solve
from qtoolkit.tensor.hessian import Hessian

# Candidates for a scale: the loss is measured, and no model made.
_STEPS = 8


def factored_alone(inputs: Hessian, order: str, damp_percent: float) -> Factored:
    """Factor the inputs of layers that are quantized each alone.

    What is not on the diagonal of H is multiplied by `trusted_share`: few tokens would be followed too closely. At 3
    bits, H of 4,096 tokens predicts 0.56 of what H of 28,672 others does for SmolLM2's layers of 1,536 inputs, 0.96 so.

    Args:
        inputs: of these layers; without any, all count alike, and codes are those next to the weights.
        order: of `solver.column_order`.
        damp_percent: as for `solver.factor`.

    Raises:
        SingularHessianError: the inputs hold NaN or infinity.
    """
    hessian = inputs.full().clone()
    importance = hessian.diagonal().clone() if inputs.num_inputs else hessian.new_ones(len(hessian))
    hessian *= trusted_share(inputs.num_inputs, len(hessian))
    hessian.diagonal().copy_(importance)
    columns = column_order(importance, order)
    lower, diagonal, damp = factor(hessian, columns, damp_percent)
    return Factored(hessian, importance, columns, lower, diagonal, damp)


def quantized_alone(
    weights: Iterable[torch.Tensor], inputs: Hessian, configs: Sequence[GPTQ]
) -> Iterator[list[torch.Tensor]]:
    """Yield what layers with the same inputs become, with the options of each config.

    Args:
        weights: W[out, in] float32 of each layer.
        inputs: of these layers.
        configs: fitted; they differ in bits alone.

    Raises:
        SingularHessianError: the inputs hold NaN or infinity.
    """
    factored = factored_alone(inputs, configs[0].order, configs[0].damp_percent)
    importance, order, lower, diagonal = factored.importance, factored.order, factored.lower, factored.diagonal
    size = len(importance) if configs[0].group_size == -1 else configs[0].group_size
    groups = torch.arange(len(importance), device=importance.device) // size
    if configs[0].desc_act:
        groups[order] = groups.clone()
    members = groups.argsort(stable=True)
    for weight in weights:
        columns = weight.T.contiguous()  # [in, out]
        made = []
        for config in configs:
            qparams = search_groups(
                columns[members], importance[members], config, bits=config.bits, group_size=size, steps=_STEPS
            )
            codes, _ = solve(columns, lower, diagonal, order, qparams, groups)
            levels = codes.float().sub_(qparams.zero_point[groups])
            made.append(levels.mul_(qparams.scale[groups]).T)  # [out, in]
        yield made
