from tests.fake_hub.fixture import writable_hub

__all__ = ["writable_hub"]
