"""Build models on the meta device: without drawing values, and with a limit of modules."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from qtoolkit.errors import CheckpointError

# Published models have up to 315 layers of 14 modules; experts are in one tensor for all.
MAX_MODULES = 25_000
# The functions by which layers draw their first values.
_DRAWS = frozenset(
    {nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_, nn.init.xavier_uniform_, nn.init.trunc_normal_}
)


class NoValues(TorchFunctionMode):
    """Skip drawing values: on the meta device that takes most of the time, and has no effect."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def building_empty(name: str) -> Iterator[None]:
    """Let this thread build a model on the meta device, without values and with a limit of modules.

    Args:
        name: what the model is called in the error.

    Raises:
        CheckpointError: more than `MAX_MODULES` modules, as a config with false numbers makes.
    """
    builder = threading.get_ident()
    count = 0

    def counted(_parent: nn.Module, _name: str, _module: nn.Module | None) -> None:
        nonlocal count
        # The hook is called for the modules of all threads.
        count += threading.get_ident() == builder
        if count > MAX_MODULES:
            raise CheckpointError(
                f"{name} would have more than {MAX_MODULES} modules by its config, and no model has so many: get the "
                "model's own config"
            )

    hook = register_module_module_registration_hook(counted)
    try:
        with NoValues():
            yield
    finally:
        hook.remove()


def uninitialized(model_class: Any) -> Any:
    """Return a subclass that does not initialize missing weights, for a model of which only names and shapes count."""
    return type(
        model_class.__name__,
        (model_class,),
        {"initialize_weights": lambda self: None, "__module__": model_class.__module__},
    )
