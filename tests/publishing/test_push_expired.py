"""A token that expires during a push: one line says so, nothing is tried again, and a new token goes on from there."""

import hashlib
import re
from pathlib import Path

import pytest

from qtoolkit.errors import SourceError
from qtoolkit.publishing.push import Content
from tests.fake_hub.server import Fault
from tests.fake_hub.writable import WritableHub
from tests.publishing.pushing import _no_pauses, contents, files, pushed
from tests.publishing.test_push_cuts import assert_whole, emptied, new_machine, received_of

__all__ = ["_no_pauses", "files"]
# All requests with the token; storage is sent to with signed addresses instead.
AUTHORIZED = r"^/api/(?!validate-yaml)|/info/lfs/"
ANSWERS = {"expired": 'User Access Token "laptop" is expired', "unknown": "Invalid credentials in Authorization header"}


@pytest.mark.parametrize(
    ("any_writable_hub", "moment", "answer"),
    [
        *(("lfs", moment / 8, "expired") for moment in range(8)),
        ("lfs", 0.5, "unknown"),
        ("xet", 0.3, "expired"),
        ("xet", 0.6, "expired"),
        ("xet", 0.99, "expired"),
    ],
    indirect=["any_writable_hub"],
)
def test_a_token_that_expires(
    any_writable_hub: WritableHub,
    files: dict[str, Content],
    moment: float,
    answer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = any_writable_hub
    pushed(files)
    count = sum(bool(re.search(AUTHORIZED, request.path)) for request in emptied(hub))
    new_machine(tmp_path / "first", monkeypatch)
    hub.faults = [
        Fault(AUTHORIZED, status=401, headers={"X-Error-Message": ANSWERS[answer]}, spared=int(moment * count))
    ]
    with pytest.raises(SourceError) as caught:
        pushed(files)
    assert str(caught.value).startswith("the Hub does not accept the token (401): it is mistyped or expired")
    assert "\n" not in str(caught.value)
    # huggingface_hub looks whether a repository that it may not make is there; hf_xet asks twice.
    assert 1 <= sum(request.status == 401 for request in hub.requests) <= 4
    assert not hub.commits
    hub.faults.clear()
    new_machine(tmp_path / "second", monkeypatch)
    stored, start = set(hub.storage), len(hub.requests)
    commit, _ = pushed(files)
    assert_whole(hub, files, commit)
    for name, content in contents(files).items():
        if name.endswith(".safetensors") and hashlib.sha256(content).hexdigest() in stored:
            assert received_of(hub, content, start) == 0
