"""Warn of a plan that quantizes few of a model's weights, and name the methods that would quantize more of them."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from qtoolkit.errors import QToolkitError
from qtoolkit.methods import MethodConfig, as_call, available_methods, get_method
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.planning.layers import Modules, planner_of
from qtoolkit.records import Plan
from qtoolkit.units import format_share

# Below it, a result is hardly smaller than its source.
_FEW = 0.5
# More of them would hardly be read.
_MAX_SHARES = 2


def with_share_warning(plan: Plan, checkpoint: Checkpoint, config: MethodConfig, modules: Modules) -> Plan:
    """Return a plan with a warning, where it quantizes less than half of the model's weights.

    Args:
        plan: the plan of a method.
        checkpoint: the model, as the plan has it.
        config: the plan's, fitted.
        modules: plans of the checkpoint's modules.
    """
    total = plan.source.num_parameters
    if plan.num_quantized >= _FEW * total:
        return plan
    calls: dict[int, list[str]] = {}
    for call, count in _others(plan, checkpoint, config, modules):
        calls.setdefault(count, []).append(call)
    largest = sorted(calls, reverse=True)[:_MAX_SHARES]
    more = "; ".join(f"{_either(calls[count])} would quantize {format_share(count, total)}" for count in largest)
    stay = f"{format_share(total - plan.num_quantized, total)} of the weights stay in {plan.source.dtype}"
    return replace(plan, warnings=(*plan.warnings, f"{stay}: {more or 'no other method takes more of them'}"))


def _others(plan: Plan, checkpoint: Checkpoint, config: MethodConfig, modules: Modules) -> Iterator[tuple[str, int]]:
    """Yield the configs, as calls, with which other methods quantize more weights than a plan does, and how many."""
    left_out = {} if config.exclude == type(config)().exclude else {"exclude": config.exclude}
    for name in available_methods():
        if name == plan.method:
            continue
        with suppress(QToolkitError):  # this method cannot take this model
            method = get_method(name)
            other = method.config_class.from_dict(left_out)
            resolved = method.resolve(other, plan.source.dtype, plan.device)
            planner = planner_of(method, checkpoint, resolved, device=plan.device, modules=modules)
            _, layers, _ = modules.planned(planner, resolved, plan.device)
            count = sum(layer.num_weights for layer in layers)
            if count > plan.num_quantized:
                yield as_call(other), count


def _either(calls: list[str]) -> str:
    """Return calls as alternatives, "A(), B() or C()"."""
    *rest, last = calls
    return f"{', '.join(rest)} or {last}" if rest else last
