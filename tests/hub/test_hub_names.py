"""A Hub name may carry its revision."""

import pytest

from qtoolkit.errors import ConfigError, ModelNotFoundError
from qtoolkit.hub.repository import fetch, parse_name
from tests.fake_hub.server import Hub
from tests.hub.hub_models import accept, ignore_progress


@pytest.mark.parametrize(
    ("name", "revision", "expected"),
    [
        ("org/name", None, ("org/name", None)),
        ("gpt2", None, ("gpt2", None)),
        ("org/name@v1.0", None, ("org/name", "v1.0")),
        ("org/name@refs/pr/3", None, ("org/name", "refs/pr/3")),
        ("org/name", "main", ("org/name", "main")),
        ("org/name@main", "main", ("org/name", "main")),
        (" org/name ", None, ("org/name", None)),
        ("https://huggingface.co/org/name", None, ("org/name", None)),
        ("https://huggingface.co/org/name/tree/v1.0", None, ("org/name", "v1.0")),
        ("huggingface.co/org/name?library=transformers", "main", ("org/name", "main")),
    ],
)
def test_a_name_is_split(name: str, revision: str | None, expected: tuple[str, str | None]) -> None:
    assert parse_name(name, revision) == expected


@pytest.mark.parametrize(
    ("name", "revision", "told"),
    [
        ("org/name@v1", "v2", "'org/name@v1' and revision='v2' name two revisions"),
        ("org/name@", None, "the revision of 'org/name@' is empty"),
        ("org/name", "", "the revision of 'org/name' is empty"),
    ],
)
def test_a_contradiction_is_refused(name: str, revision: str | None, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_name(name, revision)


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "org/na me", "../x", "org/name.git", "https://huggingface.co/datasets/a/b"]
)
def test_a_malformed_id_is_refused_without_asking(hub: Hub, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="is no Hub id: write it as on its page"):
        fetch(name, on_progress=ignore_progress, check=accept)
    assert hub.requests == []
