"""Whatever stands in a receipt, it is read or told as damaged, and a verification shows it in rows."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtoolkit.checkpoints.filenames import RECEIPT_FILE
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.receipt_file import read_receipt
from qtoolkit.publishing.verifier import check_files
from tests.fuzz.conftest import changing
from tests.fuzz.mutations import as_json, ends_well, examples, mutated

pytestmark = pytest.mark.slow

changed = contextmanager(changing)


@examples(500)
@given(data=st.data())
def test_a_receipt(quantized: Path, data: st.DataObject) -> None:
    values = json.loads((quantized / RECEIPT_FILE).read_text(encoding="utf-8"))
    with changed(quantized) as files:
        files.write(RECEIPT_FILE, as_json(data.draw(mutated(values))))
        ends_well(lambda: _show(read_receipt(quantized)))


@examples(80)
@given(data=st.data())
def test_the_checks_of_a_folder_with_it(quantized: Path, data: st.DataObject) -> None:
    values = json.loads((quantized / RECEIPT_FILE).read_text(encoding="utf-8"))
    with changed(quantized) as files:
        files.write(RECEIPT_FILE, as_json(data.draw(mutated(values))))
        ends_well(lambda: [str(check) for check in check_files(open_artifact(quantized))])


def _show(receipt: Any) -> None:
    assert receipt is not None
    str(receipt)
    receipt._repr_html_()
    receipt.to_dict()
