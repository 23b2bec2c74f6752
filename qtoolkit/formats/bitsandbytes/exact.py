"""4-bit layers of bitsandbytes saved exactly, whatever they did before."""

from typing import TYPE_CHECKING, Any

from qtoolkit.optional import optional

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


def keep_exact(model: "PreTrainedModel") -> None:
    """Let 4-bit layers be saved exactly, and run on unharmed, after they have run on a CPU.

    At its first product on a CPU with AVX512-BF16, bitsandbytes 0.50 repacks a layer in place and rounds its scales
    to bfloat16. `state_dict` undoes the packing but not the rounding, and without double quantization it leaves the
    scales transposed, in the file and in the layer. The scales are therefore kept from before, 0.13 bits per weight
    with double quantization and 0.5 without, and put back.
    """
    bnb = optional("bitsandbytes", "a 4-bit model")
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.register_forward_pre_hook(_remember_scales)
            module.register_state_dict_post_hook(_restore_scales)


def _remember_scales(module: "nn.Module", inputs: tuple[Any, ...]) -> None:
    weight: Any = module.weight
    remembered = getattr(module, "_before_repacking", None)
    repacked = getattr(weight.quant_state, "packing_format_for_cpu", False)
    if inputs[0].device.type == "cpu" and not repacked and (remembered is None or remembered[0] is not weight):
        # Past nn.Module's own setter, which would register the weight a second time.
        object.__setattr__(module, "_before_repacking", (weight, dict(vars(weight.quant_state))))


def _restore_scales(module: "nn.Module", state: dict[str, "Tensor"], prefix: str, metadata: dict[str, Any]) -> None:
    weight: Any = module.weight
    remembered = getattr(module, "_before_repacking", None)
    # A weight that was replaced since, by merging an adapter say, has scales of its own.
    if remembered is not None and remembered[0] is weight:
        vars(weight.quant_state).clear()
        vars(weight.quant_state).update(remembered[1])
        state.update({f"{prefix}weight.{name}": part for name, part in weight.quant_state.as_dict(packed=True).items()})
