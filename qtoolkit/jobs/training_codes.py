"""Train the codes of a quantized model, which holds codes again afterwards and tells that they were trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from qtoolkit.adapters.trained_codes import training_codes
from qtoolkit.errors import ConfigError
from qtoolkit.jobs.merged_quality import with_note
from qtoolkit.quantized import QuantizedModel
from qtoolkit.quantized_file import QuantizedFile


@contextmanager
def train_codes(q: QuantizedModel, include: Sequence[str] = ("*",)) -> Iterator[list[Any]]:
    """Let codes and scales of a quantized model be trained by any loop, or by transformers' Trainer, in a `with` block.

    Within it, the layers compute with float32 weights that are rounded at each call, and gradients go through the
    rounding (straight-through estimator): 16 bytes for each weight with Adam, beside the activations, so that it is
    for small models or for a few layers. Afterwards `q.model` holds codes again, which compute what was trained, to be
    saved and converted as any others; a note tells it. `qt.divergence_loss` is the loss that keeps to another model.

        with qt.train_codes(q, include=["model.layers.0.*"]) as parameters:
            adam = torch.optim.Adam(parameters, lr=1e-5)
            for tokens in batches:
                qt.divergence_loss(teacher(tokens).logits, q.model(tokens).logits).backward()
                adam.step(), adam.zero_grad()
        q.save("trained")

    Args:
        q: a model of GPTQ, absmax or zero-point, as `qt.quantize` or `qt.load` returns it.
        include: fnmatch patterns of the names of the layers; default: all of them.

    Yields:
        The parameters: weights [out, in] and scales of each layer. All others of the model are frozen meanwhile.

    Raises:
        CheckpointError: training left infinite numbers; the codes are then as they were before.
        ConfigError: no model with layers of codes, or none of these names.
        UnsupportedModelError: layers of FP8 or W8A8, or MLX's with minima.
    """
    given: Any = q
    if not isinstance(given, QuantizedModel) or isinstance(given, QuantizedFile):
        raise ConfigError(f"codes are trained of what qt.quantize or qt.load returns, got {type(q).__name__}")
    patterns = [include] if isinstance(include, str) else list(include)
    with training_codes(q.model, patterns) as parameters:
        yield parameters
    # The folder that it came from holds other codes.
    q.report = replace(q.report, path=None)
    with_note(q, f"codes and scales of layers like {', '.join(patterns)} were trained (straight-through estimator)")
