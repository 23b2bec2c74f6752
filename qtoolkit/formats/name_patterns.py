"""Write names of layers as the shortest ends that no other layer shares, for the patterns of configs."""

import re


def shortest(names: set[str], others: set[str]) -> set[str]:
    """Return the ends of `names` after the block's number, or from the list of blocks where `others` share such an end.

    Example: the same layers in each block, then not.

        >>> shortest({"m.layers.0.a.q", "m.layers.1.a.q"}, {"m.layers.0.a.k", "m.layers.1.a.k"})
        {'a.q'}
        >>> sorted(shortest({"m.layers.0.a.q"}, {"m.layers.1.a.q"}))
        ['layers.0.a.q']
    """
    ends = {_within_block(name) for name in others}
    return {inner if (inner := _within_block(name)) not in ends else _from_list(name) for name in names}


def _within_block(name: str) -> str:
    """Return the part of a name after the number of the block."""
    return _BLOCK.sub("", name, count=1)


def _from_list(name: str) -> str:
    """Return the part of a name from the list of blocks."""
    match = _BLOCK.match(name)
    return name[match.start("list") :] if match else name


# "model.layers.3." of "model.layers.3.mlp.up_proj".
_BLOCK = re.compile(r"^(?:.*?\.)??(?P<list>[^.]+)\.\d+\.")
