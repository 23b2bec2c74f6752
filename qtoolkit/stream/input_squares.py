"""Sum up the squares of what each layer gets on a text: the importance of its inputs, one forward block by block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.current_block import weight_of
from qtoolkit.stream.forward import observed
from qtoolkit.stream.run import check_block, check_outside
from qtoolkit.stream.samples import first_inputs, samples_of_a_part


@dataclass
class InputSquares:
    """Hold the squares of a layer's inputs.

    Attributes:
        sums: over all tokens, float64 [in].
        count: tokens that it got; an expert gets those that chose it.
    """

    sums: torch.Tensor
    count: int = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Add inputs [..., in]."""
        rows = inputs.detach().reshape(-1, inputs.shape[-1])  # [..., in] -> [tokens, in]
        self.sums += rows.float().square().sum(0, dtype=torch.float64)
        self.count += len(rows)


def input_squares(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    tokens: torch.Tensor,
    on_progress: OnProgress,
    *,
    phase: str,
) -> Mapping[str, InputSquares]:
    """Run a text through a model, one block in memory at a time; return the squares by full names of layers.

    Args:
        streamed: the model in full precision.
        layers: for each block, the names of layers within it.
        tokens: int64 [samples, tokens].
        on_progress: called for each block.
        phase: of the progress events.

    Raises:
        CheckpointError: a weight holds NaN or infinity.
    """
    check_outside(streamed)
    found: dict[str, InputSquares] = {}
    samples = first_inputs(streamed, tokens, _at_once(streamed, tokens))
    for index, name in enumerate(streamed.block_names):
        with streamed.block(index) as block, torch.no_grad():
            check_block(streamed, index, block)
            for layer in layers[index]:
                width = weight_of(block.get_submodule(layer)).shape[1]
                sums = torch.zeros(width, dtype=torch.float64, device=streamed.device)
                found[f"{name}.{layer}"] = InputSquares(sums)

            def note(layer: str, inputs: torch.Tensor, name: str = name) -> None:
                found[f"{name}.{layer}"].add(inputs)

            with observed(block, layers[index], note):
                samples.hidden = [call().to("cpu") for call in samples.calls(index, block, streamed.device)]
        on_progress(ProgressEvent(phase, index + 1, len(streamed.blocks), "blocks", name))
    return found


def _at_once(streamed: StreamedModel, tokens: torch.Tensor) -> int:
    """Return how many samples run through a block at one time."""
    linear = (part for part in streamed.blocks[0].modules() if getattr(part, "weight", None) is not None)
    widest = max(max(part.weight.shape) for part in linear)  # type: ignore[arg-type]
    return min(len(tokens), samples_of_a_part(streamed.dtype.itemsize, widest, tokens.shape[1]))
