"""A `Modelfile` is one of Ollama's grammar, and its template writes what the model's own chat template writes."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

import qtoolkit as qt
from qtoolkit.formats.gguf.modelfile import modelfile
from tests.publishing.checks import checks_of

_ROLE = "{% for m in messages %}"
_GO_ON = "{% if add_generation_prompt %}"
CHATML = (
    f"{_ROLE}<|im_start|>{{{{ m.role }}}}\n{{{{ m.content }}}}<|im_end|>\n{{% endfor %}}"
    f"{_GO_ON}<|im_start|>assistant\n{{% endif %}}"
)
OWN_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
LLAMA_3 = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul\n\n<|eot_id|>"
    f"{_ROLE}<|start_header_id|>{{{{ m.role }}}}<|end_header_id|>\n\n{{{{ m.content }}}}<|eot_id|>{{% endfor %}}"
    f"{_GO_ON}<|start_header_id|>assistant<|end_header_id|>\n\n{{% endif %}}"
)
PHI_3 = f"{_ROLE}<|{{{{ m.role }}}}|>\n{{{{ m.content }}}}<|end|>\n{{% endfor %}}{_GO_ON}<|assistant|>\n{{% endif %}}"
MISTRAL = (
    f"{_ROLE}{{% if m.role == 'user' %}}[INST] {{{{ m.content }}}} [/INST]"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML
CHAT = [
    {"role": "system", "content": "Say little."},
    {"role": "user", "content": 'What is\n"this"?'},
    {"role": "assistant", "content": "{{ .Role }}"},
    {"role": "user", "content": "And that?"},
]


@pytest.fixture
def tokenizer(tiny_llama: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama)


def parsed(text: str) -> list[tuple[str, str]]:
    """The commands of a `Modelfile`, as Ollama reads it: a value ends with its line, a quoted one with its quotes."""
    commands = []
    lines = iter(text.splitlines(keepends=True))
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        name, _, value = line.partition(" ")
        assert name.lower() in {"from", "license", "template", "system", "adapter", "parameter", "message", "requires"}
        key = name.lower()
        if key == "parameter":
            key, _, value = value.partition(" ")
            assert re.fullmatch(r"[A-Za-z0-9_]+", key)
        quotes = next((quotes for quotes in ('"""', '"') if value.startswith(quotes)), "")
        while quotes and (len(value.strip()) < 2 * len(quotes) or not value.strip().endswith(quotes)):
            value += next(lines)
        value = value.strip()
        commands.append((key, value[len(quotes) : len(value) - len(quotes)]))
    assert [key for key, _ in commands].count("from") == 1
    return commands


def written(template: str, messages: list[dict[str, str]]) -> str:
    """Messages by the part of Go's text/template that a loop over them takes; `-` trims what stands before it."""
    before, body, after = re.fullmatch(
        r"(.*?)\{\{- range \.Messages \}\}(.*?)\{\{ end \}\}(.*)", template, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    assert "{{" not in before + after
    names = {"{{ .Role }}": "role", "{{ .Content }}": "content"}
    pieces = re.split(r"(\{\{.*?\}\})", body)
    turns = "".join(message[names[piece]] if piece in names else piece for message in messages for piece in pieces)
    return f"{before.rstrip()}{turns}{after}"


def made(tokenizer: Any, template: str | None, **config: Any) -> list[tuple[str, str]]:
    tokenizer.chat_template = template
    described = SimpleNamespace(**{"max_position_embeddings": 128, "eos_token_id": None} | config)
    return parsed(modelfile("tiny-Q8_0.gguf", tokenizer, described, SimpleNamespace(eos_token_id=[2, 0])))


@pytest.mark.parametrize("template", [CHATML, OWN_SYSTEM, PHI_3], ids=["ChatML", "a system of its own", "Phi-3"])
def test_the_template_writes_what_the_models_own_writes(tokenizer: Any, template: str) -> None:
    ((name, own),) = [command for command in made(tokenizer, template) if command[0] == "template"]
    assert written(own, CHAT) == tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True), name


def test_what_is_written_before_the_first_turn_is_told(tokenizer: Any) -> None:
    """The turns are those of Llama 3, and a date stands before them."""
    (own,) = (value for key, value in made(tokenizer, LLAMA_3) if key == "template")
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert whole.endswith(written(own, CHAT)) and whole != written(own, CHAT)
    text = modelfile("a.gguf", tokenizer, SimpleNamespace(), None)
    assert "# It writes more than this before the first one." in text
    tokenizer.chat_template = OWN_SYSTEM
    assert "Without a system message it writes one of its own" in modelfile(
        "a.gguf", tokenizer, SimpleNamespace(), None
    )


@pytest.mark.parametrize("template", [MISTRAL, NO_SYSTEM, "{{ 1 / 0 }}", None])
def test_another_template_is_left_out(tokenizer: Any, template: str | None) -> None:
    assert "template" not in dict(made(tokenizer, template))
    text = modelfile("a.gguf", tokenizer, SimpleNamespace(), None)
    assert "# TEMPLATE is left out: the " in text


def test_every_end_of_a_turn_stops(tokenizer: Any) -> None:
    ends = [tokenizer.eos_token, tokenizer.convert_ids_to_tokens(0), tokenizer.convert_ids_to_tokens(1)]
    commands = made(tokenizer, CHATML, eos_token_id=1)
    assert [value for key, value in commands if key == "stop"] == ends
    assert commands[0] == ("from", "./tiny-Q8_0.gguf")
    assert not {"system", "license"} & {key for key, _ in commands}


@pytest.mark.parametrize(("longest", "kept"), [(128, "128"), (131072, "4096"), (None, "4096")])
def test_no_more_context_than_plans_count(tokenizer: Any, longest: int | None, kept: str) -> None:
    assert dict(made(tokenizer, None, max_position_embeddings=longest))["num_ctx"] == kept


def test_a_token_cannot_add_a_command(tokenizer: Any) -> None:
    """No line can hold it: a quoted value has no escapes."""
    tokenizer.add_special_tokens({"eos_token": 'end"\nFROM /etc/passwd\nPARAMETER stop "'})
    text = modelfile("tiny.gguf", tokenizer, SimpleNamespace(), None)
    assert {key for key, _ in parsed(text)} <= {"from", "num_ctx", "template"}
    assert "passwd" not in text and "# 1 tokens that end a turn are left out" in text


def test_it_is_written_beside_the_file_when_asked(tiny_llama: Path, tmp_path: Path) -> None:
    result = qt.quantize(str(tiny_llama), qt.GGUF("Q8_0", modelfile=True), output=tmp_path / "out")
    assert result.path is not None and result.receipt is not None
    (source,) = (value for key, value in parsed((result.path / "Modelfile").read_text()) if key == "from")
    assert (result.path / source).is_file()
    assert "Modelfile" in result.receipt.files
    assert not [check for check in checks_of(result.path).values() if check.passed is False]
    qt.quantize(str(tiny_llama), qt.GGUF("Q8_0"), output=tmp_path / "without")
    assert not (tmp_path / "without" / "Modelfile").exists()
