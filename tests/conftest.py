"""Fixtures of the whole suite."""

import functools
import gc
import importlib.util
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from qtoolkit.tensor import processor
from tests.forked_kernels import kernels_are_forked
from tests.forked_process import verifications_are_forked

# No test asserts a time: on a machine that does something else too, an example may take a second.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


BROWSER = "tests/browser/"
NOTEBOOK_RUNS = "tests/test_notebooks.py::test_runs_from_top_to_bottom["
# What takes minutes should not begin when the other core runs out of work.
FIRST = ("notebooks/", "tests/test_notebooks.py", BROWSER)


def pytest_configure(config: pytest.Config) -> None:
    """Fork kernels: the processes of xdist get what this one sets."""
    if not hasattr(config, "workerinput"):
        forked = kernels_are_forked()
        forked.__enter__()
        config.add_cleanup(lambda: forked.__exit__(None, None, None))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: next((at for at, path in enumerate(FIRST) if item.nodeid.startswith(path)), len(FIRST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Keep the tests of a file in one process, and all with a browser: each process would start a server of its own.

    Notebooks run in processes of their own, and share nothing: one after the other they would outlast all else.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(NOTEBOOK_RUNS):
                return nodeid
            return BROWSER if nodeid.startswith(BROWSER) else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of garbage collections: to look through it takes half a second each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _verifications_are_forked() -> Iterator[None]:
    with verifications_are_forked():
        yield


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> Iterator[None]:
    """Let clients share a context: to read all certificates takes 30 ms, and the test Hub speaks plain HTTP."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct in bfloat16 safetensors."""
    from tests.sample_models import smollm2_folder

    return smollm2_folder()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    """The folder of a random 2-layer Llama with SmolLM2's first tokens; saved in several shards."""
    from tests.sample_models import few_tokens, random_model

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    count = few_tokens(smollm2, folder)
    random_model("llama", vocab_size=count).save_pretrained(folder, max_shard_size="200KB")
    return folder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that this machine has."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return str(request.param)


@pytest.fixture
def older_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor taken for one with AVX2 alone by qtoolkit and bitsandbytes; by torch too in `make test-older`."""
    monkeypatch.setattr(processor, "bfloat16_is_fast", lambda: False)
    if importlib.util.find_spec("bitsandbytes") is not None:
        monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@pytest.fixture
def newer_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor taken for one that multiplies bfloat16 fast."""
    monkeypatch.setattr(processor, "bfloat16_is_fast", lambda: True)


@pytest.fixture(params=["newer_processor", "older_processor"])
def each_processor(request: pytest.FixtureRequest) -> None:
    """Both kinds of processor, one after the other."""
    request.getfixturevalue(request.param)
