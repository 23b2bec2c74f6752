"""Measure dense weights against their base: one ruler for whatever wrote them, made for many models of one base.

The base's hidden states before its head are computed once and kept in a file; its logits are one product from them.
A quantized model is measured with the weights that it multiplies with, in bfloat16 in the plain model: kernels that
read codes compute the same products with other roundings.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from qtoolkit.evaluation.statistics import Figure, mean, quantile
from qtoolkit.tensor.divergence import compare_predictions

WINDOWS, WINDOW = 32, 1024


def evaluation_windows(tokenizer: Any, text: Path, *, windows: int = WINDOWS) -> torch.Tensor:
    """Cut the first windows of a text: int64 [windows, 1024], each beginning with the tokenizer's prefix, if any."""
    from qtoolkit.texts.windows import load_windows

    found = load_windows(
        str(text),
        tokenizer,
        seq_len=WINDOW,
        num_tokens=windows * WINDOW,
        stride=None,
        max_seq_len=None,
        vocab_size=None,
        on_progress=lambda event: None,
    )
    return found.tokens[:windows]


def calibration_tokens(tokenizer: Any, text: Path, *, num_samples: int = 64, seq_len: int = 512) -> torch.Tensor:
    """Cut the samples that `qt.GPTQ` takes of a text: int64 [num_samples, seq_len]."""
    from qtoolkit.texts.calibration_text import load_calibration

    found = load_calibration(
        str(text),
        tokenizer,
        num_samples=num_samples,
        seq_len=seq_len,
        max_seq_len=None,
        vocab_size=len(tokenizer),
        on_progress=lambda event: None,
    )
    return found.tokens


class Ruler:
    """Hold a base model and windows, and measure weights that replace the base's.

    Args:
        folder: the base, a folder of a causal language model.
        windows: int64 [windows, seq_len].
        cache: a folder for the base's hidden states; made where it is missing.
    """

    def __init__(self, folder: Path, windows: torch.Tensor, cache: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.windows = windows
        self._own = {name: weight.detach() for name, weight in self.model.named_parameters()}
        self._head = self.model.get_output_embeddings().weight.detach()
        weights = (folder / "model.safetensors").stat()
        key = json.dumps([weights.st_size, weights.st_mtime_ns, windows.tolist()])
        cache.mkdir(parents=True, exist_ok=True)
        self._file = cache / f"base-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
        if not self._file.exists():
            partial = self._file.with_suffix(".partial")
            torch.save(torch.stack([self._hidden(window) for window in windows]), partial)
            partial.rename(self._file)

    def measure(self, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Measure the base with some weights replaced, by the names of its modules: "model.layers.0.mlp.up_proj".

        Returns:
            KL(base || model) in nats, its 99.9 % quantile, perplexity over the base's and the share of tokens of which
            both find the same most likely: each with its standard error over windows; and the divergence of each
            window, of which differences between two models are taken.
        """
        base = torch.load(self._file, mmap=True)  # bfloat16 [windows, seq_len, hidden]
        found = []
        with torch.no_grad():
            self._replace(weights)
            for window, expected in zip(self.windows, base, strict=True):
                logits = self._logits(self._hidden(window)[:-1], self.model.get_output_embeddings().weight)
                found.append(compare_predictions(self._logits(expected[:-1], self._head), logits, window[1:]))
            self._replace({})
        place = torch.arange(len(found)).repeat_interleave(len(found[0].nll))
        joined = [torch.cat(column) for column in zip(*found, strict=True)]
        nll, base_nll, divergence, same_top, _ = joined
        ratio = mean(nll - base_nll, place)
        factor = torch.tensor(ratio.value).exp().item()
        return {
            "kl": mean(divergence, place),
            "kl_by_window": [one.kl_divergence.mean().item() for one in found],
            "p999": quantile(divergence, place, 0.999),
            "perplexity_ratio": Figure(factor, factor * (ratio.error or 0.0)),
            "same_top": mean(same_top, place),
            "perplexity": torch.tensor(mean(nll, place).value).exp().item(),
        }

    def _hidden(self, window: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            hidden: torch.Tensor = self.model.model(window[None], use_cache=False).last_hidden_state[0]
        return hidden

    def _logits(self, hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        """Return logits [tokens, vocabulary] in bfloat16, softly capped where the model does so."""
        logits = hidden @ head.T
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _replace(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Give the model its own weights, and then these; what embedding and head share has the embedding's name."""
        replaced = dict(self._own)
        for name, weight in weights.items():
            parameter = f"{name}.weight"
            if parameter not in self._own:
                raise ValueError(f"{name} is no weight of {type(self.model).__name__}")
            if weight.shape != self._own[parameter].shape:
                raise ValueError(f"{name}: {list(weight.shape)}, not {list(self._own[parameter].shape)}")
            replaced[parameter] = weight.to(torch.bfloat16)
        for key, slot in self.model.named_parameters():
            slot.data = replaced[key]


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Return the mean of ours less theirs, window by window, with its standard error: both are of the same windows.

    An error of a difference is smaller than that of either, whose windows are hard and easy alike.
    """
    differences = torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64)
    return Figure(differences.mean().item(), (differences.std() / len(differences) ** 0.5).item())


def dense_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return what a quantized model multiplies with in place of its base's weights, by the names of its modules."""
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    return {name: module.dequantize() for name, module in leaves.items() if hasattr(module, "dequantize")}
