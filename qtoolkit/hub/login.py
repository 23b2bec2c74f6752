"""Tell whether somebody is logged in to the Hub on this machine."""

from huggingface_hub import get_token


def has_token() -> bool:
    """Check whether huggingface_hub finds a token: HF_TOKEN, Colab's secret or its own file; asks nobody."""
    return get_token() is not None
