"""Out: the receipt of a saved model, the proof that it works, its card, and its way to the Hub."""

from qtoolkit.publishing.receipt import begin_receipt, measure_probe, read_receipt, receipt_of, write_receipt
from qtoolkit.publishing.verify import verify_folder

__all__ = ["begin_receipt", "measure_probe", "read_receipt", "receipt_of", "verify_folder", "write_receipt"]
