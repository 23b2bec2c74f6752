from tests.hub.fixture import any_hub, dataset_hub, hub

__all__ = ["any_hub", "dataset_hub", "hub"]
