"""Out: the receipt of a saved model, the proof that it works, its card, and its way to the Hub."""

from qtoolkit.publishing.publication import publish
from qtoolkit.publishing.receipt import begin_receipt, measure_probe, read_receipt, receipt_of, write_receipt
from qtoolkit.publishing.verification import verify

__all__ = ["begin_receipt", "measure_probe", "publish", "read_receipt", "receipt_of", "verify", "write_receipt"]
