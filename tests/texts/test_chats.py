"""Chats are written by the tokenizer's own template, with one token that begins a text and one that ends it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from qtoolkit.records import ignore_progress
from qtoolkit.texts.windows import load_windows
from tests.texts.calibration_texts import DOCUMENTS, load, tokens_of

# As Llama's and Gemma's: the template writes the BOS, and the tokenizer adds one to every text.
LLAMA = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
)
BOS = "<|endoftext|>"


@pytest.fixture
def llama(smollm2: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.bos_token = BOS
    special = [(BOS, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(f"{BOS} $A", special_tokens=special)
    tokenizer.chat_template = LLAMA
    return tokenizer


def chat(number: int, length: int = 400) -> list[dict[str, str]]:
    text = DOCUMENTS[number]
    return [{"role": "user", "content": text[:40]}, {"role": "assistant", "content": text[40:length]}]


def test_a_sample_of_chats_has_one_bos(llama: Any) -> None:
    """The tokenizer by itself would make two."""
    written = llama.apply_chat_template(chat(0), tokenize=False)
    assert llama(written)["input_ids"][:2] == [llama.bos_token_id] * 2
    sample = load([chat(number) for number in range(12)], llama, num_samples=6, seq_len=50)
    assert sample.tokens[:, 0].tolist() == [llama.bos_token_id] * 6
    assert (sample.tokens == llama.bos_token_id).sum(1).tolist() == [1] * 6
    expected = llama.apply_chat_template(chat(0), tokenize=True, return_dict=False)[:50]
    assert sample.tokens[0].tolist() == expected


def test_chats_that_end_with_the_end_of_text_get_no_second_one(llama: Any) -> None:
    chats = [chat(number, 100) for number in range(3)]
    expected = [llama.bos_token_id]
    for one in chats:
        expected += llama.apply_chat_template(one, tokenize=True, return_dict=False)[1:]
    sample = load(chats, llama, num_samples=1, seq_len=len(expected))
    assert sample.tokens.flatten().tolist() == expected
    assert f"3 documents, each of which ends with {llama.eos_token} itself" in sample.notes


def test_texts_that_were_written_for_training_get_no_second_bos_either(llama: Any) -> None:
    written = [llama.apply_chat_template(chat(number, 100), tokenize=False) for number in range(3)]
    chats = load([chat(number, 100) for number in range(3)], llama, num_samples=1, seq_len=64)
    assert load(written, llama, num_samples=1, seq_len=64).fingerprint == chats.fingerprint


def test_windows_of_chats_have_one_bos_too(llama: Any) -> None:
    windows = load_windows(
        [chat(number) for number in range(6)],
        llama,
        seq_len=32,
        num_tokens=320,
        stride=None,
        max_seq_len=None,
        vocab_size=49152,
        on_progress=ignore_progress,
    )
    assert (windows.tokens == llama.bos_token_id).sum(1).tolist() == [1] * len(windows.tokens)


def test_chats_are_joined_by_the_end_of_text_where_the_template_writes_none(llama: Any) -> None:
    llama.chat_template = LLAMA.replace("{{ eos_token }}", "")
    chats = [chat(0, 100), chat(1, 100)]
    first, second = [llama.apply_chat_template(one, tokenize=True, return_dict=False) for one in chats]
    expected = [*first, llama.eos_token_id, *second[1:]]
    assert load(chats, llama, num_samples=1, seq_len=len(expected)).tokens.flatten().tolist() == expected


def expect(tokenizer: Any, value: Any, messages: list[dict[str, Any]], tools: Any = None) -> None:
    written = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    tokens = tokens_of(tokenizer, written.removeprefix(BOS))
    sample = load(value, tokenizer, num_samples=1, seq_len=len(tokens) + 1)
    assert sample.tokens.flatten().tolist() == [tokenizer.bos_token_id, *tokens]


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)], ids=["list", "JSON"])
def test_tools_reach_the_template(llama: Any, tools: Any) -> None:
    expect(llama, [{"messages": chat(0), "tools": tools}], chat(0), TOOLS)


def test_the_systems_message_of_a_row_comes_first(llama: Any) -> None:
    system = {"role": "system", "content": "Be brief."}
    expect(llama, [{"conversations": chat(0), "system": "Be brief."}], [system, *chat(0)])
    expect(llama, [{"messages": [system, *chat(0)], "system": "Be long."}], [system, *chat(0)])
    row = {"system_prompt": "Be brief.", "question": "Why?", "response": "Because."}
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    expect(llama, [row], [system, *turns])
    expect(llama, [{**row, "system_prompt": ""}], turns)


def test_the_input_of_an_instruction_stands_below_it(llama: Any) -> None:
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
    turns = [{"role": "user", "content": "Add.\n1 and 2"}, {"role": "assistant", "content": "3"}]
    expect(llama, [row], turns)


def test_calls_of_tools_stay_in_their_messages(llama: Any) -> None:
    llama.chat_template = LLAMA.replace("{{ eos_token }}", "{{ message.tool_calls }}{{ eos_token }}")
    calls = [{"function": {"name": "add", "arguments": {"a": 1}}}]
    messages = [chat(0)[0], {"role": "assistant", "content": None, "tool_calls": calls, "name": None}]
    expect(llama, [messages], [chat(0)[0], {"role": "assistant", "content": "", "tool_calls": calls}])


def test_roles_of_sharegpt_become_those_of_templates(llama: Any) -> None:
    given = {"system": "system", "human": "user", "gpt": "assistant", "observation": "tool", "critic": "critic"}
    value = [[{"from": name, "value": "a"} for name in given]]
    expect(llama, value, [{"role": role, "content": "a"} for role in given.values()])


def test_what_a_chat_says_is_in_no_note(llama: Any) -> None:
    secret = [[{"role": "user", "content": "Xylophon-Quartz 4711 " * 60}]]
    assert "Xylophon" not in repr(load(secret, llama))
