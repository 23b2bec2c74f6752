"""Hubs of the test's own."""

from tests.fake_hub.fixture import any_hub, hub

__all__ = ["any_hub", "hub"]
