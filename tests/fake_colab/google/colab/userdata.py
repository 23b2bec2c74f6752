"""Secrets, as googlecolab/colabtools, google/colab/userdata.py, hands them out."""

import json
import os


class SecretNotFoundError(Exception):
    """There is no such secret."""


class NotebookAccessError(Exception):
    """The notebook may not read it."""


def get(key: str) -> str:
    """The value of a secret."""
    secrets = json.loads(os.environ.get("COLAB_SECRETS", "{}"))
    if key not in secrets:
        raise SecretNotFoundError(key)
    if secrets[key] is None:
        raise NotebookAccessError(key)
    return str(secrets[key])
