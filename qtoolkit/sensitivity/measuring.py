"""What rounding a layer costs, predicted to second order from gradients (optimal brain surgeon, as in HAWQ-V2).

A change dW of one weight matrix changes the model's output by KL(p || q) ~ 1/2 E[<g, dW>^2] nats per token, where g is
the gradient of log p(y | x) for a label y drawn from p: the Fisher information is the second derivative of the KL
divergence at p. For all T labels of a sample at once, G = sum_t g_t, cross terms have the mean 0 (labels are drawn
independently), so that <G, dW>^2 / (2 T) has the same mean. One backward pass gives it for every layer and every number
of bits.

Example: T = 1, a Bernoulli output with logit w and p = 1/2, dW = 0.1. The Fisher information is p (1 - p) = 1/4, so
KL ~ 0.1^2 / 8 = 0.00125 nats; exactly it is 0.001249.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import torch

from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.files import keep_json, read_json, user_cache
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods import Layer, Method, MixedConfig
from qtoolkit.models import Checkpoint
from qtoolkit.records import OnProgress, RoundingLoss, Sensitivity, ignore_progress
from qtoolkit.sensitivity.backward import run_backward
from qtoolkit.stream import StreamedModel, calibration_dtype, load_streamed
from qtoolkit.texts.calibration_text import Calibration, read_calibration
from qtoolkit.texts.self_calibration import self_calibration
from qtoolkit.version import __version__

# A standard error of a quarter of the loss of a layer: bits differ by a factor of 4 and more.
NUM_SAMPLES, SEQ_LEN = 32, 128
# What a sensitivity does not depend on.
_NOT_IN_KEY = ("bits", "target_bits", "target_size", "num_samples", "seq_len")


def measure_sensitivity(
    checkpoint: Checkpoint,
    method: Method,
    config: MixedConfig,
    layers: Sequence[Layer],
    bits: Sequence[int],
    *,
    device: str,
    on_progress: OnProgress = ignore_progress,
) -> Sensitivity:
    """Predict for each layer of the blocks what rounding it alone to the nearest code would add to the loss.

    One block is in memory at a time. The text is that of the config's `calibration`, otherwise what the model writes
    itself. What was measured is kept in the user's cache folder, for the same weights, method, options and text.

    Args:
        checkpoint: the model, full precision, its weights within reach.
        method: rounds with its own grid.
        config: its options.
        layers: linear layers of the blocks.
        bits: numbers of bits to round to.
        device: "cpu" or "cuda:0".
        on_progress: told of each block.

    Raises:
        UnsupportedModelError: no list of blocks, or a model that computes NaN.
        CheckpointError: a weight that holds NaN or infinity.
        QToolkitError: as loading the text.
    """
    started = time.monotonic()
    dtype = calibration_dtype(device, checkpoint.dtype)
    source, sizes = getattr(config, "calibration", "self"), {"num_samples": NUM_SAMPLES, "seq_len": SEQ_LEN}
    written = isinstance(source, str) and source == "self"
    text = None if written else read_calibration(checkpoint, source, **sizes, on_progress=on_progress)
    key = _key(checkpoint, config, layers, bits, dtype, text)
    file = user_cache() / "sensitivity" / f"{key}.json"
    known = read_json(file)
    # A file that holds something else is replaced.
    with suppress(ConfigError):
        return Sensitivity.from_dict(known)
    text = text or _written_text(checkpoint, device, dtype, on_progress)
    streamed = StreamedModel(checkpoint, device=device, dtype=dtype)
    rounding = _Rounding(streamed.name, method, config, {layer.name: layer for layer in layers}, bits, text.tokens)
    inner = [
        [layer.name.removeprefix(f"{block}.") for layer in layers if layer.name.startswith(f"{block}.")]
        for block in streamed.block_names
    ]
    run_backward(streamed, inner, text.tokens, rounding, on_progress)
    del streamed
    give_memory_back()
    num_samples, seq_len = text.tokens.shape
    found = Sensitivity(rounding.result(), text.name, num_samples, seq_len, time.monotonic() - started)
    keep_json(file, found.to_dict())
    return found


class _Rounding:
    """Sums up <G, dW>^2 of each sample, layer and number of bits; a `Watcher`."""

    def __init__(
        self,
        model: str,
        method: Method,
        config: MixedConfig,
        layers: Mapping[str, Layer],
        bits: Sequence[int],
        tokens: torch.Tensor,
    ) -> None:
        self._model, self._method, self._config, self._layers, self._bits = model, method, config, layers, bits
        self._num_samples, self._seq_len = tokens.shape
        # Layer -> change of the weight for each number of bits, [bits, elements].
        self._changes: dict[str, torch.Tensor] = {}
        # Layer -> loss of each sample, float64 [samples, bits].
        self._losses = {name: torch.zeros(self._num_samples, len(bits), dtype=torch.float64) for name in layers}

    def start(self, weights: Mapping[str, torch.Tensor]) -> None:
        self._changes = {name: self._change(name, weight) for name, weight in weights.items()}

    def _change(self, name: str, stored: torch.Tensor) -> torch.Tensor:
        own, weight = self._config.of(name), stored.float()
        try:
            rounded = [self._method.rounded(weight, self._layers[name], own.with_bits(bits)) for bits in self._bits]
        except ValueError as error:
            raise UnsupportedModelError(f"{name} of {self._model} cannot be rounded ({error}): exclude it") from error
        return torch.stack([(value - weight).to(stored.dtype).flatten() for value in rounded])

    def add(self, sample: int, gradients: Mapping[str, torch.Tensor]) -> None:
        for name, gradient in gradients.items():
            slopes = self._changes[name].float() @ gradient.float().flatten()  # [bits]
            self._losses[name][sample] = slopes.double().cpu() ** 2 / (2 * self._seq_len)

    def result(self) -> tuple[RoundingLoss, ...]:
        """Means over the samples, and their standard errors."""
        return tuple(loss for name, losses in self._losses.items() for loss in self._means(name, losses))

    def _means(self, name: str, losses: torch.Tensor) -> Iterator[RoundingLoss]:
        if not losses.isfinite().all():
            raise UnsupportedModelError(
                f"{self._model} computes NaN or infinity at {name}, so that no sensitivity can be measured: give rules"
            )
        means = losses.mean(0).tolist()
        errors = (losses.std(0, correction=min(1, len(losses) - 1)) / len(losses) ** 0.5).tolist()
        for bits, loss, error in zip(self._bits, means, errors, strict=True):
            yield RoundingLoss(name, bits, loss, error)


def _written_text(checkpoint: Checkpoint, device: str, dtype: torch.dtype, on_progress: OnProgress) -> Calibration:
    whole = load_streamed(replace(checkpoint, dtype=dtype), None, device=device, on_progress=ignore_progress).value
    return self_calibration(
        whole, checkpoint.tokenizer, num_samples=NUM_SAMPLES, seq_len=SEQ_LEN, on_progress=on_progress
    )


def _key(
    checkpoint: Checkpoint,
    config: MixedConfig,
    layers: Sequence[Layer],
    bits: Sequence[int],
    dtype: torch.dtype,
    text: Calibration | None,
) -> str:
    """SHA-256 of all that a measurement depends on."""
    settings = {name: value for name, value in config.to_dict().items() if name not in _NOT_IN_KEY}
    facts = {
        "version": __version__,
        "schema_version": Sensitivity.schema_version,
        "weights": checkpoint.fingerprint(),
        "method": config.method,
        "settings": list(settings.items()),
        "rules": list(config.rules.items()),
        "layers": [layer.name for layer in layers],
        "bits": list(bits),
        "dtype": str(dtype),
        "text": text.fingerprint if text else "self",
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
