"""Say by which keys a `.gguf` file holds the chat templates of a tokenizer."""

import re
from collections.abc import Mapping

from qtoolkit.checkpoints.gguf_vocabulary import TEMPLATE_KEY, TEMPLATES_KEY
from qtoolkit.checkpoints.gguf_writing import Value
from qtoolkit.errors import UnsupportedModelError


def written_template(name: str) -> str:
    """Return the name of a chat template as `add_chat_template` of the `gguf` package writes it."""
    return re.sub("[^a-zA-Z0-9]", "_", name)


def templates_of(found: str | Mapping[str, str] | None) -> dict[str, Value]:
    """Return the chat template, and further ones by their names, of which llama.cpp takes that for tools, "tool_use".

    Args:
        found: the template, or several by name; None for a model without one.

    Raises:
        UnsupportedModelError: two have the same name then.
    """
    named = {"default": found} if isinstance(found, str) else found or {}
    names = {name: written_template(name) for name in named}
    if len(set(names.values())) < len(names):
        raise UnsupportedModelError(
            f"no .gguf file is written with the chat templates {', '.join(map(repr, names))}: their names there have "
            "letters and digits alone, and two would be the same: rename one in tokenizer.chat_template"
        )
    keys = {name: TEMPLATE_KEY if name == "default" else f"{TEMPLATE_KEY}.{names[name]}" for name in named}
    values = {keys[name]: Value("string", template) for name, template in named.items()}
    further = tuple(names[name] for name in named if name != "default")
    return values | ({TEMPLATES_KEY: Value("string", further)} if further else {})
