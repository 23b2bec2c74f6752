"""Predict what quantizing each layer costs, to second order from gradients (optimal brain surgeon, as in HAWQ-V2).

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qtoolkit.errors import ConfigError, QToolkitError, UnsupportedModelError
from qtoolkit.files import cache_json, read_json, user_cache
from qtoolkit.formats import Planner
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods import Choice, Layer, MixedConfig
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.structure import output_head, tied_to, token_embedding
from qtoolkit.records import OnProgress, RoundingLoss, Sensitivity, ignore_progress
from qtoolkit.sensitivity.block_inputs import inputs_of_groups
from qtoolkit.sensitivity.outside_blocks import head_losses, table_losses
from qtoolkit.stream.backward import LoadedBlock, Top, run_backward
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.current_block import weight_of
from qtoolkit.stream.loading import calibration_dtype, load_streamed
from qtoolkit.texts.calibration_text import Calibration, read_calibration
from qtoolkit.texts.self_calibration import self_calibration
from qtoolkit.texts.texts import is_self
from qtoolkit.version import __version__

# Enough for a standard error of a quarter of a layer's loss: losses of different bits differ by a factor of 4 and more.
NUM_SAMPLES = 32
SEQ_LEN = 128
# Options that do not change a sensitivity.
_NOT_IN_KEY = ("bits", "target_bits", "target_size", "num_samples", "seq_len")


def measure_sensitivity(
    checkpoint: Checkpoint,
    method: Planner,
    config: MixedConfig,
    choices: Mapping[Layer, Sequence[Choice]],
    *,
    device: str,
    on_progress: OnProgress = ignore_progress,
) -> Sensitivity:
    """Predict for each layer what quantizing it alone would add to the loss.

    The change is that of rounding to the nearest code; of a method that corrects, what is left after correction, by
    the inputs that the layer has on the same text.

    One block is in memory at a time. The text is the config's `calibration`, or text that the model generates if the
    config has none. Results are cached in the user's cache folder, by weights, method, options and text.

    Args:
        checkpoint: the model in full precision, its weights on this machine.
        method: rounds with its own grid, and corrects layers of the blocks if it does so.
        config: its options.
        choices: for each layer, the numbers of bits, or types, to round to. Layers outside the blocks are the token
            embedding and the output head.
        device: "cpu" or "cuda:0".
        on_progress: called for each block.

    Raises:
        UnsupportedModelError: the model has no list of blocks, or computes NaN.
        CheckpointError: a weight holds NaN or infinity.
        QToolkitError: the text cannot be loaded.
    """
    started = time.monotonic()
    dtype = calibration_dtype(device, checkpoint.dtype)
    source = text_of(config)
    text = None
    if not is_self(source):
        text = read_calibration(
            checkpoint,
            source,
            num_samples=NUM_SAMPLES,
            seq_len=SEQ_LEN,
            column=getattr(config, "calibration_column", None),
            on_progress=on_progress,
        )
    key = _key(checkpoint, method, config, choices, dtype, text)
    file = user_cache() / "sensitivity" / f"{key}.json"
    # A file that holds something else is replaced.
    with suppress(ConfigError):
        return Sensitivity.from_dict(read_json(file))
    text = text or _generated_text(checkpoint, device, dtype, on_progress)
    streamed = StreamedModel(checkpoint, device=device, dtype=dtype)
    inner = {layer: own for layer, own in choices.items() if layer.in_block}
    names = streamed.names_by_block([layer.name for layer in inner])
    losses = _RoundingLosses(streamed.name, method, config, choices, names, text.tokens)
    around = [layer for layer in choices if not layer.in_block]
    gradients = run_backward(
        streamed,
        text.tokens,
        losses,
        on_progress,
        phase="measure",
        states=[],
        on_top=losses.add_head if around else None,
    )
    if around:
        losses.add_table(streamed, gradients)
    del streamed
    give_memory_back()
    num_samples, seq_len = text.tokens.shape
    sensitivity = Sensitivity(losses.result(), text.name, num_samples, seq_len, time.monotonic() - started)
    cache_json(file, sensitivity.to_dict())
    return sensitivity


@dataclass
class _RoundingLosses:
    """Compute <G, dW>^2 / (2 T) of each sample, layer and number of bits; a `Watcher`.

    Attributes:
        model: the user's name for the model, for errors.
        method: changes the weights.
        config: its options.
        choices: layers with the numbers of bits, or types, to round to.
        names: for each block, the names of its layers within it.
        tokens: int64 [samples, tokens].
        changes: layer of the block in memory -> change of the weight for each choice, [choices, elements].
        losses: layer -> loss of each sample, float64 [samples, choices].
    """

    model: str
    method: Planner
    config: MixedConfig
    choices: Mapping[Layer, Sequence[Choice]]
    names: Sequence[Sequence[str]]
    tokens: torch.Tensor
    changes: dict[str, torch.Tensor] = field(init=False)
    losses: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        shapes = {layer.name: (len(self.tokens), len(own)) for layer, own in self.choices.items()}
        self.losses = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}

    @contextmanager
    def watching(self, block: LoadedBlock) -> Iterator[list[torch.Tensor]]:
        """See `Watcher`."""
        layers = {layer.name: layer for layer in self.choices}
        linear: dict[str, Any] = {
            f"{block.name}.{name}": block.module.get_submodule(name) for name in self.names[block.index]
        }
        if self.method.corrects:
            changes = dict(self._corrections(block, linear))
            self.changes = {name: changes[name] for name in linear}
        else:
            self.changes = {name: self._rounding(layers[name], module) for name, module in linear.items()}
        yield [module.weight.requires_grad_() for module in linear.values()]

    def _rounding(self, layer: Layer, module: nn.Module) -> torch.Tensor:
        """Return how rounding to each number of bits changes a weight, [bits, elements] in the module's order."""
        weight = weight_of(module).float()
        try:
            return _change(module, self._rounded(weight, layer))
        except ValueError as error:
            message = f"{layer.name} of {self.model} cannot be rounded ({error}): exclude it"
            raise UnsupportedModelError(message) from error

    def _rounded(self, weight: torch.Tensor, layer: Layer) -> list[torch.Tensor]:
        """Return some rows [rows, in] of a weight with each choice."""
        return [self.method.rounded(weight, layer, config) for config in self._configs(layer.name)]

    def _corrections(self, block: LoadedBlock, linear: Mapping[str, nn.Module]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield how each layer of a block changes where the method corrects: as `_rounding`, by full names."""
        for names, inputs in inputs_of_groups(block, self.names[block.index]):
            full = [f"{block.name}.{name}" for name in names]
            for configs, some in groupby(full, self._configs):
                alike = list(some)
                weights = (weight_of(linear[name]).float() for name in alike)
                try:
                    for name, values in zip(alike, self.method.corrected(weights, inputs, configs), strict=True):
                        yield name, _change(linear[name], values)
                except (ValueError, QToolkitError) as error:
                    message = f"{alike[0]} of {self.model} cannot be measured ({error}): exclude it"
                    raise UnsupportedModelError(message) from error

    def _configs(self, name: str) -> list[MixedConfig]:
        """Return the config of a layer with each choice."""
        config = self.config.of(name)
        return [config.choosing(choice) for choice in self._choices_of[name]]

    def add_head(self, top: Top) -> None:
        """Add the losses of the output head, by which rows of it are multiplied; see `head_losses`."""
        name = output_head(top.model)
        layer = self._around.get(tied_to(top.model).get(name or "", name or ""))
        if layer is not None:
            self.losses[layer.name] += head_losses(top, name or "", self.tokens, partial(self._rounded, layer=layer))

    def add_table(self, streamed: StreamedModel, gradients: Sequence[torch.Tensor]) -> None:
        """Add the losses of the token embedding, of which rows are looked up; see `table_losses`."""
        layer = self._around.get(token_embedding(streamed.model) or "")
        if layer is not None:
            rounded = partial(self._rounded, layer=layer)
            self.losses[layer.name] += table_losses(streamed, layer.name, self.tokens, gradients, rounded)

    @property
    def _choices_of(self) -> dict[str, Sequence[Choice]]:
        return {layer.name: own for layer, own in self.choices.items()}

    @property
    def _around(self) -> dict[str, Layer]:
        """Return the layers outside the blocks, by name."""
        return {layer.name: layer for layer in self.choices if not layer.in_block}

    def add(self, samples: slice, gradients: Sequence[torch.Tensor | None]) -> None:
        """See `Watcher`; one sample at a time."""
        for (name, change), gradient in zip(self.changes.items(), gradients, strict=True):
            if gradient is not None:
                slopes = change.float() @ gradient.float().flatten()  # [bits]
                self.losses[name][samples] = slopes.double().cpu() ** 2 / (2 * self.tokens.shape[1])

    def result(self) -> tuple[RoundingLoss, ...]:
        """Return the means over the samples, with their standard errors."""
        return tuple(loss for name, losses in self.losses.items() for loss in self._means(name, losses))

    def _means(self, name: str, losses: torch.Tensor) -> Iterator[RoundingLoss]:
        if not losses.isfinite().all():
            raise UnsupportedModelError(
                f"{self.model} computes NaN or infinity at {name}, so that no sensitivity can be measured: give rules"
            )
        means = losses.mean(0).tolist()
        errors = (losses.std(0, correction=min(1, len(losses) - 1)) / len(losses) ** 0.5).tolist()
        for bits, loss, error in zip(self._choices_of[name], means, errors, strict=True):
            yield RoundingLoss(name, bits, loss, error)


def text_of(config: MixedConfig) -> Any:
    """Return the text that sensitivities are measured on: the config's, or "self", which the model writes."""
    source = getattr(config, "calibration", None)
    return "self" if source is None else source


def _change(module: nn.Module, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the differences of values [out, in] from a layer's weight, [bits, elements] in the module's order."""
    stored = weight_of(module)
    weight = stored.float()
    change = torch.stack([(value - weight).to(stored.dtype) for value in values])
    # Conv1D stores [in, out].
    return (change if isinstance(module, nn.Linear) else change.mT).flatten(1)


def _generated_text(checkpoint: Checkpoint, device: str, dtype: torch.dtype, on_progress: OnProgress) -> Calibration:
    """Return text that the model generates itself."""
    model = load_streamed(replace(checkpoint, dtype=dtype), None, device=device, on_progress=ignore_progress).value
    return self_calibration(
        model, checkpoint.tokenizer, num_samples=NUM_SAMPLES, seq_len=SEQ_LEN, on_progress=on_progress
    )


def _stamps(config: MixedConfig) -> list[tuple[int, int]]:
    """Return the sizes and times of the files that a config names."""
    named = (getattr(config, name) for name in config.files())
    return [(stat.st_size, stat.st_mtime_ns) for name in named if name is not None for stat in [Path(name).stat()]]


def _key(
    checkpoint: Checkpoint,
    method: Planner,
    config: MixedConfig,
    choices: Mapping[Layer, Sequence[Choice]],
    dtype: torch.dtype,
    text: Calibration | None,
) -> str:
    """Return the SHA-256 of everything that a sensitivity depends on."""
    settings = {name: value for name, value in config.to_file().items() if name not in (*_NOT_IN_KEY, config.mixed)}
    # Where all layers have the same, the key is that of earlier versions, whose measurements are taken.
    own = {tuple(choices[layer]) for layer in choices}
    bits = [*own.pop()] if len(own) == 1 else [[*each] for each in choices.values()]
    facts = {
        "version": __version__,
        "schema_version": Sensitivity.schema_version,
        "weights": checkpoint.fingerprint(),
        "method": config.method,
        # Without it the key is that of earlier versions, whose measurements are taken.
        **({"corrects": True} if method.corrects else {}),
        "settings": list(settings.items()),
        "rules": list(config.rules.items()),
        "layers": [layer.name for layer in choices],
        "bits": bits,
        # What a file says may change under its name.
        **({"files": files} if (files := _stamps(config)) else {}),
        "dtype": str(dtype),
        "text": text.fingerprint if text else "self",
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
