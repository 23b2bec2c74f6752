"""Run a model without dropout, and leave it afterwards as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Turn off dropout and whatever else training needs; restore the mode of each module, and drop the states of a run.

    RecurrentGemma, for one, keeps the state after the last token as an attribute, which would count as the model's.
    """
    training = [module for module in model.modules() if module.training]
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for module, before in attributes:
            _drop_states(module, before)


def _drop_states(module: nn.Module, before: dict[str, object]) -> None:
    """Remove the tensors that a module has as attributes now, where it had none before."""
    for name, value in list(vars(module).items()):
        if not isinstance(value, Tensor) or isinstance(before.get(name), Tensor):
            continue
        if name in before:
            setattr(module, name, before[name])
        else:
            delattr(module, name)
