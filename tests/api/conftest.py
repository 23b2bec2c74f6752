from tests.fake_hub.fixture import any_hub, hub, writable_hub

__all__ = ["any_hub", "hub", "writable_hub"]
