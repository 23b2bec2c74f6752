from tests.hub.fixture import any_hub, hub

__all__ = ["any_hub", "hub"]
