"""A Hub of the test's own."""

from tests.fake_hub.fixture import hub

__all__ = ["hub"]
