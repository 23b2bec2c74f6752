"""What one pastes into a bug report: complete, true, and without names or tokens."""

import getpass
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from qtoolkit.measure.disk import free_disk
from qtoolkit.measure.host import PACKAGES, devices, examine
from qtoolkit.optional import REQUIREMENTS
from qtoolkit.records import Doctor
from qtoolkit.tensor import processor


def test_versions_are_those_installed() -> None:
    versions = examine({}).versions
    assert set(versions) == {"python", *PACKAGES}
    assert versions["torch"] == metadata.version("torch") == torch.__version__
    assert versions["python"] == platform.python_version()


def test_it_can_be_stored_and_read_back() -> None:
    doctor = examine({"absmax": ()})
    assert Doctor.from_dict(doctor.to_dict()) == doctor


def test_it_says_how_this_processor_multiplies_bfloat16(each_processor: None) -> None:
    (line, *_) = devices()
    advice = (
        "multiplies bfloat16 in float32: llama.cpp writes text some 3 times as fast here, from a .gguf file of 4 bits"
    )
    assert line.endswith(advice) == (not processor.bfloat16_is_fast())


def test_methods_are_ready_or_say_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("absent_one", "absent_two"):
        monkeypatch.setitem(REQUIREMENTS, package, package.removeprefix("absent_") + ">=1")
    needs = {"plain": (), "here": ("torch",), "one": ("absent_one",), "two": ("absent_two", "absent_one", "torch")}
    assert examine(needs).methods == {
        "plain": "ready",
        "here": "ready",
        "one": "pip install 'one>=1'",
        "two": "pip install 'one>=1' 'two>=1'",
    }


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "~/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "{home}/xdg"}, "~/xdg/huggingface/hub"),
        ({"HF_HOME": "~/hf"}, "~/hf/hub"),
        ({"HF_HOME": "$HOME/hf"}, "~/hf/hub"),
        ({"HF_HOME": "~/hf", "HF_HUB_CACHE": "~/elsewhere"}, "~/elsewhere"),
    ],
    ids=str,
)
def test_thehub_cache_is_found_as_the_hub_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(home=tmp_path))
    cache = next(iter(examine({}).disk_free))
    assert cache == expected
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    reference = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert cache.replace("~", str(tmp_path)) == reference


def test_no_name_or_token_gets_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "alice"
    working = tmp_path / "scratch" / "alice" / platform.node() / "model"
    for folder in (home / "real", working):
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.chdir(working)
    doctor = examine({"absmax": ()})
    assert list(doctor.disk_free) == ["~/hf/hub", f"{tmp_path}/scratch/USER/HOST/model"]
    assert doctor.disk_free["~/hf/hub"] == pytest.approx(free_disk(home), abs=500_000_000)
    for text in (str(doctor), doctor._repr_html_()):
        assert "alice" not in text
        assert "secret" not in text


def test_names_of_this_machine_do_not_get_out() -> None:
    words = str(examine({})).replace("/", " ").split()
    assert platform.node() not in words
    assert getpass.getuser() not in words


def test_the_processor_and_each_gpu_have_a_line() -> None:
    processor, *gpus = devices()
    assert processor.startswith("cpu: ")
    assert torch.backends.cpu.get_cpu_capability() in processor
    assert len(gpus) == torch.cuda.device_count()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_tells_its_name_memory_and_capability() -> None:
    line = devices()[1]
    assert line.startswith(f"cuda:0: {torch.cuda.get_device_name(0)}, ")
    assert "compute capability {}.{}".format(*torch.cuda.get_device_capability(0)) in line
    assert "free of" in line


def test_packages_are_not_imported_to_ask_for_their_versions() -> None:
    code = (
        "import sys; from qtoolkit.measure.host import examine; examine({'nf4': ('bitsandbytes',)})\n"
        "print({'IPython', 'ipywidgets', 'transformers', 'huggingface_hub', 'bitsandbytes'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_colab_s_torchao_beside_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "torchao-0.10.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    (told,) = examine({}).conflicts
    assert re.match(r"peft [\d.]+ refuses torchao 0\.10\.0 at layers that are not quantized", told)
    assert "pip uninstall -y torchao" in told
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.16.0\n")
    assert not examine({}).conflicts
