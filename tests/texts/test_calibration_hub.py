"""wikitext2 and c4 are streamed from the Hub; what goes wrong there is told in one line, with a way around it."""

import gzip
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pytest
from huggingface_hub import constants, hf_hub_download
from pyarrow import parquet

from qtoolkit.errors import (
    GatedModelError,
    HubUnreachableError,
    JobCancelled,
    ModelNotFoundError,
    QToolkitError,
    SourceError,
)
from qtoolkit.records import ProgressEvent
from tests.fake_hub.datasets import DatasetHub
from tests.fake_hub.fixture import environment
from tests.fake_hub.server import Fault
from tests.texts.calibration_texts import DOCUMENTS, TEXT, load, tokens_of

WIKITEXT, C4 = "datasets/Salesforce/wikitext", "datasets/allenai/c4"
WIKITEXT_FILE, C4_FILE = "wikitext-2-raw-v1/train-00000-of-00001.parquet", "en/c4-train.00000-of-01024.json.gz"
LINES = TEXT[:60_000].split("\n")
AROUND = "; or give a file, or 'self'"


@pytest.fixture
def texts_hub(dataset_hub: DatasetHub) -> DatasetHub:
    """A Hub that has both texts, each with a file that nobody needs."""
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"text": LINES}), buffer, row_group_size=300)
    rows = "".join(json.dumps({"text": text, "timestamp": "now", "url": "u"}) + "\n" for text in DOCUMENTS)
    dataset_hub.add(WIKITEXT, {WIKITEXT_FILE: buffer.getvalue(), "README.md": b"---\nlicense: mit\n---\n"})
    dataset_hub.add(C4, {C4_FILE: gzip.compress(rows.encode()), "en/c4-train.00001-of-01024.json.gz": b"other"})
    return dataset_hub


def refusal(name: str, tokenizer: Any, kind: type[QToolkitError], **options: Any) -> str:
    with pytest.raises(kind) as caught:
        load(name, tokenizer, **options)
    assert type(caught.value) is kind
    # The traceback of the library that asked would be all that one sees of a notebook cell.
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"text '{name}' cannot be read: ")
    assert message.endswith(AROUND)
    return message.removeprefix(f"text '{name}' cannot be read: ").removesuffix(AROUND)


def test_wikitext2_is_one_text_with_an_empty_line_between_its_lines(texts_hub: DatasetHub, tokenizer: Any) -> None:
    text = tokens_of(tokenizer, "".join(f"{line}\n\n" for line in LINES))
    sample = load("wikitext2", tokenizer, num_samples=1_000_000, seq_len=8)
    assert sample.tokens.flatten().tolist() == text[: len(text) // 8 * 8]
    assert sample.name == "wikitext2"
    commit = texts_hub.repositories[WIKITEXT].refs["main"]
    assert f"wikitext2 is {WIKITEXT_FILE} of Salesforce/wikitext at commit {commit[:12]}" in sample.notes
    assert texts_hub.downloads() == [WIKITEXT_FILE] * len(texts_hub.downloads())


def test_c4_is_the_first_documents_of_its_first_file(texts_hub: DatasetHub, tokenizer: Any) -> None:
    joined: list[int] = []
    for document in DOCUMENTS:
        joined += [tokenizer.eos_token_id] * bool(joined) + tokens_of(tokenizer, document)
    sample = load("c4", tokenizer, num_samples=3, seq_len=200)
    assert sample.tokens.flatten().tolist() == joined[:600]
    assert sample.notes[0] == "calibrated with 3 samples of 200 tokens of c4 (its first 600 tokens)"
    commit = texts_hub.repositories[C4].refs["main"]
    assert f"c4 is {C4_FILE} of allenai/c4 at commit {commit[:12]}" in sample.notes
    assert set(texts_hub.downloads()) == {C4_FILE}
    assert sample.checked == f"not checked: {C4_FILE} was read in parts, and the Hub names the hash of the whole file"


@pytest.mark.parametrize("name", ["wikitext2", "c4"])
def test_nothing_is_printed_nobody_else_is_asked_and_no_setting_stays_changed(
    texts_hub: DatasetHub,
    tokenizer: Any,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hosts = set()
    look_up = socket.getaddrinfo

    def record(host: Any, *args: Any, **kwargs: Any) -> Any:
        hosts.add(host)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", record)
    config = datasets.config
    before = (dict(vars(config)), datasets.logging.get_verbosity(), dict(os.environ))
    load(name, tokenizer)
    texts_hub.faults = [Fault("/api/datasets", status=503)]
    refusal(name, tokenizer, HubUnreachableError)
    assert before == (dict(vars(config)), datasets.logging.get_verbosity(), dict(os.environ))
    assert hosts <= {"127.0.0.1"}
    assert capfd.readouterr() == ("", "")


def test_a_stop_is_a_stop(texts_hub: DatasetHub, tokenizer: Any) -> None:
    def stop(_event: ProgressEvent) -> None:
        raise JobCancelled

    before = dict(vars(datasets.config))
    with pytest.raises(JobCancelled):
        load("c4", tokenizer, on_progress=stop)
    assert dict(vars(datasets.config)) == before


@pytest.mark.parametrize(
    ("fault", "kind", "told"),
    [
        pytest.param(
            Fault("/api/datasets", status=503),
            HubUnreachableError,
            r"URL is down or overloaded \(503\): run it again later",
            id="down",
        ),
        pytest.param(
            Fault("/api/datasets", status=429), HubUnreachableError, r"the Hub gets too many requests .*", id="too many"
        ),
        pytest.param(
            Fault("/resolve/", status=500),
            HubUnreachableError,
            r"URL is down or overloaded \(500\): .*",
            id="file down",
        ),
        pytest.param(
            Fault("/resolve/", cut=100),
            HubUnreachableError,
            r"(the download of Salesforce/wikitext broke off|URL does not answer) \(.*\): .*run it again",
            id="breaks",
        ),
        pytest.param(
            Fault("/resolve/", status=404),
            SourceError,
            "the Hub answers 404 for Salesforce/wikitext: see URL/datasets/Salesforce/wikitext",
            id="no file",
        ),
        pytest.param(
            Fault("/api/datasets", status=401),
            ModelNotFoundError,
            "no dataset 'Salesforce/wikitext' on URL: check the name; a private one needs a token: .*",
            id="unknown",
        ),
    ],
)
def test_what_goes_wrong_is_told(
    texts_hub: DatasetHub,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    kind: type[QToolkitError],
    told: str,
) -> None:
    # huggingface_hub and datasets wait seconds before each further attempt.
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    texts_hub.faults = [fault]
    message = refusal("wikitext2", tokenizer, kind)
    assert re.fullmatch(told, message.replace(texts_hub.url, "URL"))


def test_a_gated_text_is_told(texts_hub: DatasetHub, tokenizer: Any) -> None:
    texts_hub.repositories[WIKITEXT].gated = True
    message = refusal("wikitext2", tokenizer, GatedModelError)
    page = f"{texts_hub.url}/datasets/Salesforce/wikitext"
    assert message.startswith(f"Salesforce/wikitext is gated: accept its licence at {page}, then log in")


def test_a_damaged_file_is_told(texts_hub: DatasetHub, tokenizer: Any) -> None:
    whole = texts_hub.repositories[WIKITEXT]
    (commit,) = whole.commits
    whole.commit({WIKITEXT_FILE: whole.commits[commit][WIKITEXT_FILE][:1000]})
    assert refusal("wikitext2", tokenizer, HubUnreachableError).startswith(
        f"{texts_hub.url} answers, but not as the Hub"
    )


def _unplugged(hub: DatasetHub, _monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub.close_session()
    hub.server_close()


def _offline(_hub: DatasetHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


OUTAGES = pytest.mark.parametrize(
    ("break_down", "reason"),
    [
        pytest.param(_unplugged, r"does not answer \(", id="no network"),
        pytest.param(_offline, "HF_HUB_OFFLINE is set: unset it", id="HF_HUB_OFFLINE"),
    ],
)
Outage = Callable[[DatasetHub, pytest.MonkeyPatch], None]


@OUTAGES
@pytest.mark.parametrize(
    ("name", "repository", "file"),
    [("wikitext2", WIKITEXT, WIKITEXT_FILE), ("c4", C4, C4_FILE)],
    ids=["wikitext2", "c4"],
)
def test_a_text_in_the_local_cache_needs_no_network(
    texts_hub: DatasetHub,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    break_down: Outage,
    reason: str,
    name: str,
    repository: str,
    file: str,
) -> None:
    before = load(name, tokenizer)
    hf_hub_download(repository.removeprefix("datasets/"), file, repo_type="dataset")
    downloads = texts_hub.downloads()
    assert load(name, tokenizer) == before
    assert texts_hub.downloads() == downloads
    break_down(texts_hub, monkeypatch)
    after = load(name, tokenizer)
    assert after.fingerprint == before.fingerprint
    assert after.checked == f"checked: {file} has the hash that the local Hub cache names it by"
    assert re.search(f"^{name} was taken from the local cache, since .*{reason}", after.notes[-1])


def test_a_damaged_text_in_the_local_cache_is_refused(texts_hub: DatasetHub, tokenizer: Any) -> None:
    cached = Path(hf_hub_download("Salesforce/wikitext", WIKITEXT_FILE, repo_type="dataset"))
    data = bytearray(cached.read_bytes())
    data[100] ^= 1
    cached.resolve().write_bytes(data)
    with pytest.raises(SourceError, match="has other bytes than its name in the cache says") as caught:
        load("wikitext2", tokenizer)
    assert str(cached) in str(caught.value)
    assert str(caught.value).endswith(f": remove it{AROUND}")


@OUTAGES
def test_a_text_that_was_never_there_is_told(
    texts_hub: DatasetHub, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, break_down: Outage, reason: str
) -> None:
    break_down(texts_hub, monkeypatch)
    assert re.search(reason, refusal("wikitext2", tokenizer, HubUnreachableError))


PROGRAM = """
import sys
from qtoolkit.texts import calibration_text
from tests.texts.calibration_texts import load
from transformers import AutoTokenizer
calibration_text.REACH = 2000
print(load("wikitext2", AutoTokenizer.from_pretrained(sys.argv[1])).notes[0])
"""


@pytest.mark.slow
def test_python_ends_quietly_after_a_text_that_was_read_in_part(
    texts_hub: DatasetHub, smollm2: Path, tmp_path: Path
) -> None:
    """Threads of pyarrow that still read would crash it (apache/arrow issue 45214)."""
    environ = os.environ | environment(texts_hub, tmp_path) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(smollm2)], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("(256 of its first 2,000 tokens, evenly spread)\n")
