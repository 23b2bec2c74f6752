"""What a comparison refuses before any work."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import (
    ConfigError,
    ModelNotFoundError,
    QToolkitError,
    UnknownMethodError,
    UnsupportedModelError,
)
from qtoolkit.records import ProgressEvent
from tests.jobs.compared import compare
from tests.sample_models import random_model

BAD: dict[str, tuple[Any, dict[str, Any], type[QToolkitError], str]] = {
    "no list": ("nf4", {}, ConfigError, "configs must be a list"),
    "nothing": ([], {}, ConfigError, "configs must be a list"),
    "unknown method": (["nf5"], {}, UnknownMethodError, "the methods are"),
    "bad config": ([3], {}, ConfigError, "config must be"),
    "the same twice": (["nf4", qt.NF4()], {}, ConfigError, r"configs has NF4\(\) 2 times"),
    "no such folder": ([Path("nowhere")], {}, ModelNotFoundError, "does not exist"),
    "calibration that is nothing": ([qt.GPTQ(calibration="nowhere.txt")], {}, ConfigError, "calibration must be"),
    "one prompt": (["nf4"], {"prompts": "Hello"}, ConfigError, "prompts must be a list"),
    "an empty prompt": (["nf4"], {"prompts": [""]}, ConfigError, "prompts must be a list"),
    "no size": (["nf4"], {"memory": "much"}, ConfigError, "is no size"),
    "retries": (["nf4"], {"retries": -1}, ConfigError, "retries must be"),
    "a text that is nothing": (["nf4"], {"text": "nowhere.txt"}, ConfigError, "text must be"),
    "no executor": (["nf4"], {"executor": "dask"}, ConfigError, r"client.get_executor\(\)"),
}


@pytest.mark.parametrize(("configs", "changes", "error", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_any_work(
    tiny_llama: Path, tmp_path: Path, configs: Any, changes: dict[str, Any], error: type[QToolkitError], said: str
) -> None:
    events = list[ProgressEvent]()
    good = [*configs, "absmax"] if isinstance(configs, list) and configs else configs
    with pytest.raises(error, match=said) as caught:
        compare(tiny_llama, good, tmp_path / "kept", on_progress=events.append, **changes)
    assert len(str(caught.value).splitlines()) == 1
    assert events == []
    assert not (tmp_path / "kept").exists()


def test_a_quantized_model_is_no_base(tiny_llama: Path, tmp_path: Path) -> None:
    quantized = qt.quantize(tiny_llama, "absmax", device="cpu", output=tmp_path / "q")
    for model in (quantized, tmp_path / "q"):
        with pytest.raises(UnsupportedModelError, match="quantized"):
            compare(model, ["nf4"], tmp_path / "kept")


@pytest.mark.parametrize("changes", [{"executor": None}, {"noise_floor": True}], ids=["executor", "noise floor"])
def test_a_loaded_model_is_refused_where_a_name_is_needed(tmp_path: Path, changes: dict[str, Any]) -> None:
    with ThreadPoolExecutor(1) as executor:
        given = {name: executor if value is None else value for name, value in changes.items()}
        with pytest.raises(ConfigError, match="name"):
            compare(random_model("llama"), ["nf4"], tmp_path, **given)
