"""Let peft train LoRA on layers of integer codes, which it does not know: `import peft` is all that a person does.

This module is imported as soon as peft is, if qtoolkit was imported before, and at once if peft came first.
"""

import copy
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from qtoolkit.adapters.base_names import public_base, write_trained_on
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.kernels import QuantizedEmbedding, QuantizedLinear
from qtoolkit.optional import optional

lora: Any = optional("peft.tuners.lora", "LoRA on quantized layers")
variants: Any = optional("peft.tuners.lora.variants", "LoRA on quantized layers")

# Ways to begin that read no weight of the base, or none but by its outputs.
_STARTS = (True, False, "gaussian", "eva")
_CODES_STAY = (
    "these layers hold integer codes, and no adapter is merged into them: "
    "qt.merge(model, adapter, output=...) adds it to the full-precision base and quantizes that again"
)


class QuantizedLoraLinear(lora.Linear):  # type: ignore[misc]
    """Compute x W^T + scaling * (x A^T) B^T, where W is held as integer codes, and A and B are trained in float32.

    A has the shape [r, in_features], B [out_features, r]. DoRA reads W, which it dequantizes whole at each call. With
    `use_qalora=True` (QA-LoRA, arXiv 2309.14717) A is [r, in_features / qalora_group_size], and multiplies with means
    of x over groups: the change is one number for each output and group, as the minimum of a group of codes is.

    Args:
        base_layer: the layer of codes.
        adapter_name: the adapter's name.
        config: peft's `LoraConfig`; it is saved with a base that others find, see `public_base`.
        options: as for peft's own layer.

    Raises:
        UnsupportedModelError: it is an embedding, or the adapter begins by changing W.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any, **options: Any) -> None:
        layer = getattr(base_layer, "base_layer", base_layer)
        if isinstance(layer, QuantizedEmbedding):
            name = options.get("target_name") or "an embedding"
            raise UnsupportedModelError(f"{name} is an embedding of integer codes: leave it out of target_modules")
        config.on_codes = True
        super().__init__(base_layer, adapter_name, config=config, **options)

    @property
    def lora_variants(self) -> dict[tuple[str, ...], Any]:
        """See peft: LoRA itself, and DoRA."""
        return {(): None, ("use_dora",): _Dora}

    def resolve_lora_variant(self, *, config: Any, **options: Any) -> Any:
        """See peft: QA-LoRA as for its own layers of codes, or one of `lora_variants`."""
        variant = super().resolve_lora_variant(config=config, **options)
        if not config.use_qalora:
            return variant
        if variant is not None:
            raise UnsupportedModelError("use_qalora=True and another variant of LoRA are not used together: give one")
        return variants.QALoraLinearVariant()

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: Any, **options: Any) -> None:
        """See peft: make A and B of an adapter."""
        start = config.init_lora_weights
        if start not in _STARTS:
            allowed = ", ".join(map(repr, _STARTS))
            raise UnsupportedModelError(
                f"init_lora_weights={start!r:.40} would change the base's weights, which are integer codes: "
                f"give one of {allowed}"
            )
        size = config.qalora_group_size
        if config.use_qalora and (size < 1 or self.in_features % size):
            raise UnsupportedModelError(
                f"qalora_group_size={size} does not divide the {self.in_features} inputs of a layer: give the "
                "group_size of the codes"
            )
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **options)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse to merge: codes are not changed.

        Raises:
            UnsupportedModelError: always.
        """
        raise UnsupportedModelError(_CODES_STAY)

    def _get_in_out_features(self, module: QuantizedLinear) -> tuple[int, int]:
        return module.in_features, module.out_features

    def _get_base_layer_device_and_dtype(self, base_layer: QuantizedLinear) -> tuple[torch.device, None]:
        # A and B keep float32: a code's type, which may be float8, is none to train in.
        return next(base_layer.buffers()).device, None


class _Dora(variants.DoraLinearVariant):  # type: ignore[misc]
    """Let DoRA read the weight that codes stand for."""

    @staticmethod
    def init(module: Any, adapter_name: str, **options: Any) -> None:
        """See peft: measure the norm of each row."""
        with _dequantized(module):
            variants.DoraLinearVariant.init(module, adapter_name, **options)

    @staticmethod
    def forward(module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **options: Any) -> Any:
        """See peft: what is added to the product of the base, x[..., in] -> [..., out]."""
        with _dequantized(module):
            return variants.DoraLinearVariant.forward(module, active_adapter, x, result, **options)


@contextmanager
def _dequantized(module: QuantizedLoraLinear) -> Iterator[None]:
    """Let a layer's base be a linear layer with the same weight in float32, for the time of a `with` block."""
    layer: QuantizedLinear = module.get_base_layer()
    plain: Any = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(layer.dequantize(), requires_grad=False)
    plain.bias = None if layer.bias is None else nn.Parameter(layer.bias, requires_grad=False)
    # A plain attribute: as a child, it would be saved with the model.
    module.__dict__["get_base_layer"] = lambda: plain
    try:
        yield
    finally:
        del module.__dict__["get_base_layer"]


def register() -> None:
    """Let every `LoraConfig` know these layers, and let peft's refusal to merge say what can be done instead.

    peft has an interface for layers of others, for one config at a time; here each new config calls it. Without that
    interface, as in versions to come, nothing is changed, and peft refuses the layers as before.
    """
    config: Any = lora.LoraConfig
    if hasattr(config, "_register_custom_module"):
        config.__post_init__ = _knowing_layers(config.__post_init__)
    config.save_pretrained = _naming_base(config.save_pretrained)
    adapted: Any = optional("peft", "LoRA on quantized layers").PeftModel
    adapted.create_or_update_model_card = _naming_card(adapted.create_or_update_model_card)
    model: Any = lora.LoraModel
    if hasattr(model, "_check_merge_allowed"):
        model._check_merge_allowed = _refusing_codes(model._check_merge_allowed)  # noqa: SLF001
    if hasattr(model, "_replace_module"):
        model._replace_module = _placing_layers(model._replace_module)  # noqa: SLF001
    if hasattr(model, "_prepare_model"):
        model._prepare_model = _finding_layers(model._prepare_model)  # noqa: SLF001


def _knowing_layers(post_init: Any) -> Any:
    """Return a config's `__post_init__` that registers our layers after it."""

    @functools.wraps(post_init)
    def wrapper(config: Any) -> None:
        post_init(config)
        config._register_custom_module({QuantizedLinear: QuantizedLoraLinear})  # noqa: SLF001

    return wrapper


def _naming_base(save: Any) -> Any:
    """Return a config's `save_pretrained` that names the base of layers of codes as others find it."""

    @functools.wraps(save)
    def wrapper(config: Any, save_directory: str, **options: Any) -> None:
        saved = copy.copy(config)
        if vars(saved).pop("on_codes", False):
            name, revision = public_base(config.base_model_name_or_path)
            saved.base_model_name_or_path = name
            saved.revision = config.revision or revision
        save(saved, save_directory, **options)
        if vars(config).get("on_codes"):
            write_trained_on(config.base_model_name_or_path, Path(save_directory))

    return wrapper


def _naming_card(write: Any) -> Any:
    """Return what writes the card of an adapter, which names the base of layers of codes as others find it."""

    @functools.wraps(write)
    def wrapper(model: Any, output_dir: str) -> None:
        write(model, output_dir)
        card = Path(output_dir) / "README.md"
        for config in model.peft_config.values():
            found = public_base(config.base_model_name_or_path) if vars(config).get("on_codes") else None
            if found is not None and found.name is not None:
                named = _named_anew(card.read_text(encoding="utf-8"), config.base_model_name_or_path, found.name)
                card.write_text(named, encoding="utf-8")

    return wrapper


def _named_anew(card: str, old: str, new: str) -> str:
    """Return a card with another name of the base: in its metadata, and of a path everywhere."""
    lines = [
        line.replace(old, new) if line.startswith("base_model:") or ":adapter:" in line or os.sep in old else line
        for line in card.split("\n")
    ]
    return "\n".join(lines)


def _refusing_codes(check: Any) -> Any:
    """Return a check whether a model's adapters can be merged that refuses layers of codes first."""

    @functools.wraps(check)
    def wrapper(model: Any) -> None:
        if any(isinstance(module, QuantizedLoraLinear) for module in model.modules()):
            raise UnsupportedModelError(_CODES_STAY)
        check(model)

    return wrapper


def _placing_layers(replace: Any) -> Any:
    """Return what puts a layer with an adapter in its place; ours are on the device of their codes already.

    peft looks at a tensor of the layer for that device, and packed codes are none.
    """

    @functools.wraps(replace)
    def wrapper(model: Any, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(new_module, QuantizedLoraLinear):
            setattr(parent, child_name, new_module)
        else:
            replace(model, parent, child_name, new_module, child)

    return wrapper


def _finding_layers(prepare: Any) -> Any:
    """Return what peft calls before it looks for layers: by then "all-linear" names ours too, of which peft knows none.

    Args:
        prepare: peft's own, which does other things.
    """

    @functools.wraps(prepare)
    def wrapper(model: Any, config: Any, adapted: nn.Module) -> None:
        asked = config.target_modules
        if isinstance(asked, str) and asked.lower() == "all-linear":
            names = _linear_names(adapted)
            if any(isinstance(adapted.get_submodule(name), QuantizedLinear | QuantizedLoraLinear) for name in names):
                config.target_modules = names
        prepare(model, config, adapted)

    return wrapper


def _linear_names(model: Any) -> set[str]:
    """Return the names of all linear layers, of codes or not, but for the output head, as peft's "all-linear" does."""
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head else None
    adapted = tuple(f"{name}." for name, one in model.named_modules() if isinstance(one, lora.LoraLayer))
    found = set()
    for name, module in model.named_modules():
        layer = module.get_base_layer() if isinstance(module, lora.LoraLayer) else module
        linear = isinstance(layer, nn.Linear | Conv1D | QuantizedLinear) and not isinstance(layer, QuantizedEmbedding)
        if linear and head not in (layer, module) and not name.startswith(adapted):
            found.add(name)
    return found
