"""Keys and local paths: what is one, and what only looks like one."""

from pathlib import Path

import pytest

from qtoolkit.publishing.patterns import SECRETS, local_paths, without_paths

pytestmark = pytest.mark.once

KEYS = {
    "hugging-face": "hf_" + "a1" * 17,
    "openai": "sk-proj-" + "a1" * 20,
    "anthropic": "sk-ant-api03-" + "a1" * 20,
    "github": "ghp_" + "a1" * 18,
    "gitlab": "glpat-" + "a1" * 10,
    "aws": "AKIA" + "A1" * 8,
    "google": "AIza" + "a" * 35,
    "slack": "xoxb-" + "1" * 12,
    "ssh": "-----BEGIN RSA PRIVATE KEY-----",
}
HARMLESS = [
    "hf_hub_download",
    "hf_xet",
    "task-specific",
    "sk-learn",
    "AKIA",
    "a" * 64,
    "https://huggingface.co/org/name",
]


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_is_found(key: str) -> None:
    assert any(pattern.search(f'"k": "{key}"'.encode()) for pattern in SECRETS.values())


@pytest.mark.parametrize("text", HARMLESS)
def test_a_text_without_a_key_is_not_taken_for_one(text: str) -> None:
    assert not any(pattern.search(text.encode()) for pattern in SECRETS.values())


PATHS = ["/home/ann/x", "/Users/ann/x", "C:\\Users\\ann", "c:\\\\Users\\\\ann", "/root/x", "/content/drive/MyDrive/x"]
NO_PATHS = ["https://huggingface.co/home/ann/x", "model/home/x/y", "/mnt/data", "a/b", "org/Users", "rooted/", "/home/"]


@pytest.mark.parametrize("path", [*PATHS, str(Path.home() / "models"), str(Path.cwd())])
def test_a_local_path_is_found(path: str) -> None:
    assert local_paths().search(f'{{"at": "{path}"}}'.encode())


@pytest.mark.parametrize("text", NO_PATHS)
def test_what_is_no_local_path_is_not_taken_for_one(text: str) -> None:
    assert not local_paths().search(f'{{"at": "{text}"}}'.encode())


def test_a_path_is_cut_down_to_its_last_part() -> None:
    assert without_paths("read from /home/ann/models/small, as asked") == "read from small, as asked"
    assert without_paths("nothing here") == "nothing here"
