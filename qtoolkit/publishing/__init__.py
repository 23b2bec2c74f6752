"""Out: the receipt of a saved model, the proof that it works, its card, and its way to the Hub."""

from qtoolkit.publishing.behaviour import probe_tokens
from qtoolkit.publishing.card import choose_license
from qtoolkit.publishing.files_push import publish_files
from qtoolkit.publishing.patterns import private_in
from qtoolkit.publishing.publisher import check_push, check_repo_id, publish
from qtoolkit.publishing.receipt_file import (
    begin_receipt,
    behaviour_of,
    measure_probe,
    probe_of,
    read_receipt,
    receipt_of,
    write_receipt,
)
from qtoolkit.publishing.token import read_token
from qtoolkit.publishing.verifier import verify

__all__ = [
    "begin_receipt",
    "behaviour_of",
    "check_push",
    "check_repo_id",
    "choose_license",
    "measure_probe",
    "private_in",
    "probe_of",
    "probe_tokens",
    "publish",
    "publish_files",
    "read_receipt",
    "read_token",
    "receipt_of",
    "verify",
    "write_receipt",
]
