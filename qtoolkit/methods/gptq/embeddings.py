"""Quantize the token embedding and the output head by rounding, with searched scales and no calibration."""

from dataclasses import replace

import torch

from qtoolkit.methods.gptq import GPTQ
from qtoolkit.methods.gptq.layer_groups import SEARCH_STEPS, SMALLEST
from qtoolkit.tensor.qparams import search_qparams

# Weights that are rounded at one time: float32 copies and codes of them take some ten times as many bytes.
_AT_ONCE = 2**21


def quantize_embedding(
    weight: torch.Tensor, config: GPTQ, *, dtype: torch.dtype, device: str
) -> dict[str, torch.Tensor]:
    """Return the tensors that store a weight W[tokens, width], some rows at one time.

    Each group's scale is searched for the least squared error of its weights, each weight counted alike.

    Args:
        weight: of the embedding or the output head.
        config: of `GPTQ.for_embeddings`.
        dtype: type of the model, as it is stored.
        device: where it is rounded.

    Raises:
        ValueError: as `search_qparams`, and what the format does not hold.
    """
    tokens, width = weight.shape
    stored = config.stored_as.tensors_of(config, tokens, width, bits=config.bits, dtype=dtype)
    _, scale_dtype = stored.tensors()[stored.scale_name]
    largest = torch.finfo(dtype).max
    parts = [
        _rounded(rows.to(device, torch.float32), config, scale_dtype, largest)
        for rows in weight.split(_AT_ONCE // width)
    ]
    # [width, rows] and [groups, rows] of each part -> all tokens
    codes, scale, zero_point = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
    return stored.store(codes, scale, zero_point, torch.arange(width) // config.group_size)


def _rounded(
    rows: torch.Tensor, config: GPTQ, scale_dtype: torch.dtype, largest: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes uint8 [width, rows], scales and zero points [groups, rows] of rows [rows, width], on the CPU."""
    columns = rows.T.contiguous()  # [width, rows]
    qparams = search_qparams(
        columns,
        columns.new_ones(len(columns)),
        bits=config.bits,
        group_size=config.group_size,
        sym=config.sym,
        full_range=config.full_range,
        steps=SEARCH_STEPS[config.bits],
        smallest=SMALLEST[config.bits],
        largest=largest,
    )
    qparams = replace(qparams, scale=qparams.scale.to(scale_dtype).float())
    # [width, rows] -> [groups, group_size, rows]
    grouped = columns.unflatten(0, (-1, config.group_size))
    codes = (grouped / qparams.scale[:, None] + qparams.zero_point[:, None]).round_().clamp_(0, 2**config.bits - 1)
    return codes.flatten(0, 1).to(torch.uint8).cpu(), qparams.scale.cpu(), qparams.zero_point.cpu()
