"""Write the `Modelfile` of a `.gguf` file, from which `ollama create` makes a model (docs.ollama.com/modelfile).

Ollama compares the chat template in a file with those that it knows, letter by letter, and takes the text of the last
message alone where none is near (ollama/server/model.go, `detectChatTemplate`; template/template.go, `Named`). Long
templates, such as that of Qwen 3, are near none. Here the template is run instead, and what it writes is compared.
"""

from dataclasses import dataclass
from typing import Any

from qtoolkit.requests import DEFAULT_CONTEXT

NAME = "Modelfile"
# The texts of four messages, to be found again in what a template writes.
_SYSTEM, *_TURNS = (("system", "one"), ("user", "two"), ("assistant", "three"), ("user", "four"))


@dataclass(frozen=True)
class _Turns:
    """How a family of templates writes a message: before its role, after it, and after the text."""

    before: str
    after: str
    end: str

    def head(self, role: str) -> str:
        """Return what stands before the text of a message."""
        return f"{self.before}{role}{self.after}"

    def written(self, messages: Any) -> str:
        """Return messages of (role, text) as the family writes them, up to where the model goes on."""
        turns = "".join(f"{self.head(role)}{text}{self.end}" for role, text in messages)
        return turns + self.head("assistant")

    @property
    def template(self) -> str:
        """Return the same in the syntax of Go's text/template, with Ollama's names."""
        turn = self.head("{{ .Role }}") + "{{ .Content }}" + self.end
        return "{{- range .Messages }}" + turn + "{{ end }}" + self.head("assistant")


# ChatML, Llama 3, Phi-3, Zephyr, Granite 3.
_FAMILIES = (
    _Turns("<|im_start|>", "\n", "<|im_end|>\n"),
    _Turns("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
    _Turns("<|", "|>\n", "<|end|>\n"),
    _Turns("<|", "|>\n", "</s>\n"),
    _Turns("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>\n"),
)


def modelfile(file_name: str, tokenizer: Any, config: Any, generation_config: Any) -> str:
    """Return the text of a `Modelfile`: the file, its template, the ends of a turn, and how many tokens are kept.

    Args:
        file_name: of the `.gguf` file beside it.
        tokenizer: of the model; None for none.
        config: of the model.
        generation_config: of the model; None for none.
    """
    longest = getattr(config, "max_position_embeddings", None) or DEFAULT_CONTEXT
    turns, remarks = _turns_of(tokenizer)
    lines = [f"# ollama create NAME -f {NAME}", f"FROM ./{file_name}", *(f"# {remark}" for remark in remarks)]
    if turns is not None:
        lines.append(f'TEMPLATE """{turns.template}"""')
    if longest > DEFAULT_CONTEXT:
        lines.append(f"# The model reads {longest} tokens; more than these take more memory.")
    lines.append(f"PARAMETER num_ctx {min(longest, DEFAULT_CONTEXT)}")
    ends = _ends_of(tokenizer, config, generation_config)
    # A quoted text has no escapes.
    plain = [end for end in ends if end.isprintable() and '"' not in end]
    if len(plain) < len(ends):
        lines.append(f"# {len(ends) - len(plain)} tokens that end a turn are left out: no line can hold them.")
    return "\n".join([*lines, *(f'PARAMETER stop "{end}"' for end in plain)]) + "\n"


def _turns_of(tokenizer: Any) -> tuple[_Turns | None, list[str]]:
    """Return the family whose turns the chat template of a tokenizer writes, if there is one, and remarks on it."""
    if not getattr(tokenizer, "chat_template", None):
        return None, [
            "TEMPLATE is left out: the model has no chat template, and goes on with the text that it is given."
        ]
    written = _written(tokenizer, [_SYSTEM, *_TURNS])
    for turns in _FAMILIES:
        if written.endswith(turns.written(_TURNS)):
            remarks = ["TEMPLATE: the chat template in the file writes these turns."]
            if written != turns.written([_SYSTEM, *_TURNS]):
                remarks.append("It writes more than this before the first one.")
            elif _written(tokenizer, _TURNS) != turns.written(_TURNS):
                remarks.append(
                    "Without a system message it writes one of its own, which SYSTEM would be the place for."
                )
            return turns, remarks
    return None, [
        "TEMPLATE is left out: the chat template in the file is of none of the families that are written here, and",
        "Ollama takes its own for it where it knows that; otherwise write one in its syntax.",
    ]


def _written(tokenizer: Any, messages: list[tuple[str, str]]) -> str:
    """Return messages as the chat template of a tokenizer writes them, without the token that begins every text."""
    asked = [{"role": role, "content": text} for role, text in messages]
    try:
        written: str = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    except Exception:  # noqa: BLE001  # a template is a program of anybody's, and may refuse a role
        return ""
    # Ollama adds that one where the tokenizer does.
    adds_bos = tokenizer.bos_token is not None and tokenizer.encode("")[:1] == [tokenizer.bos_token_id]
    return written.removeprefix(tokenizer.bos_token) if adds_bos else written


def _ends_of(tokenizer: Any, config: Any, generation_config: Any) -> list[str]:
    """Return the tokens that end a turn, each once: of the tokenizer, of the options of generating, of the config."""
    if tokenizer is None:
        return []
    numbers = [tokenizer.eos_token_id]
    for described in (generation_config, config):
        ends = getattr(described, "eos_token_id", None)
        numbers += ends if isinstance(ends, list | tuple) else [ends]
    known = [number for number in numbers if isinstance(number, int) and 0 <= number < len(tokenizer)]
    return list(dict.fromkeys(str(tokenizer.convert_ids_to_tokens(number)) for number in known))
