"""Describe this machine: devices, free memory and disk, versions of packages, and which methods run on it."""

import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from qtoolkit.errors import oneline
from qtoolkit.files import absolute, current_folder, home_folder
from qtoolkit.measure.cpu import num_cores, processor
from qtoolkit.measure.disk import free_disk, same_disk
from qtoolkit.measure.memory_limits import available_memory, largest_file, limited_by, memory_limit, resident_room
from qtoolkit.measure.peak import resident_memory
from qtoolkit.optional import READING, REQUIREMENTS, RUNNING, is_installed
from qtoolkit.records import THIS_MACHINE, Doctor, Machine, Speed
from qtoolkit.units import format_bytes
from qtoolkit.version import __version__

PACKAGES = (
    *("qtoolkit", "torch", "transformers", "huggingface_hub", *RUNNING, "accelerate", "safetensors", "gguf"),
    *("IPython", "ipykernel", "ipywidgets", "jupyterlab"),
)
# Packages whose versions can change a quantized model.
_RELEVANT = ("torch", "transformers", "tokenizers", "safetensors", *RUNNING, *READING)
# Of processors of AVX2 alone: 63 tokens/s of Q4_0 beside 21 of GPTQ with 4 bits, benchmarks/processor.py.
GGUF_IS_FASTER = "llama.cpp writes text some 3 times as fast here, from a .gguf file of 4 bits"
_NOT_INSTALLED = "not installed"
# peft looks for it at every layer that is not quantized, `is_torchao_available` of its import_utils (0.20 and 0.21).
_TORCHAO_OF_PEFT = (0, 16)


def this_machine(output: Path, speed: Speed) -> Machine:
    """Return what this machine offers to a job now: free memory, plus what this process holds, and free disk.

    Args:
        output: where results would be written.
        speed: the machine's speed, from `measure_speed`.
    """
    vram: list[int] = []
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        # Memory that torch has freed and keeps reserved is free for this process.
        vram = [
            torch.cuda.mem_get_info(index)[0] + torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
            for index in range(torch.cuda.device_count())
        ]
    room, command = resident_room()
    return Machine(
        THIS_MACHINE,
        room + resident_memory(),
        tuple(vram),
        cache_disk=free_disk(hub_cache()),
        output_disk=free_disk(output),
        one_disk=same_disk(hub_cache(), output),
        speed=speed,
        limited_by=command,
        largest_file=largest_file(),
    )


def devices() -> tuple[str, ...]:
    """Return one line for the processor and one for each CUDA GPU; initialises CUDA to read a GPU's free memory."""
    cpu = f"cpu: {processor()}, {num_cores()} of {os.cpu_count()} cores"
    try:
        import torch
    except (ImportError, OSError) as error:
        return (cpu, f"torch does not import: {_private(oneline(error))}")
    cpu = f"{cpu}, {torch.backends.cpu.get_cpu_capability()}, {_bfloat16()}"
    return (cpu, *(_gpu(torch, index) for index in range(torch.cuda.device_count())))


def examine(methods: Mapping[str, tuple[str, ...]]) -> Doctor:
    """Return a description of this machine for bug reports, without user name, host name or tokens.

    No package is imported except torch, for the devices.

    Args:
        methods: method -> the packages that it requires, keys of `qtoolkit.optional.REQUIREMENTS`.
    """
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return Doctor(
        versions={"python": platform.python_version()} | {package: _version(package) for package in PACKAGES},
        platform=f"{platform.platform()}, {python}",
        devices=devices(),
        memory_available=available_memory(),
        memory_limit=memory_limit(),
        limited_by=limited_by(),
        conflicts=tuple(_conflicts()),
        disk_free={_private(str(folder)): free_disk(folder) for folder in (hub_cache(), current_folder())},
        methods={name: _state(packages) for name, packages in methods.items()},
    )


def _conflicts() -> Iterator[str]:
    """Yield what is installed and does not work together: Colab's torchao beside peft."""
    peft, torchao = _version("peft"), _version("torchao")
    numbers = re.match(r"(\d+)\.(\d+)", torchao)
    if peft != _NOT_INSTALLED and numbers and (int(numbers[1]), int(numbers[2])) < _TORCHAO_OF_PEFT:
        yield (
            f"peft {peft} refuses torchao {torchao} at layers that are not quantized ('Found an incompatible version "
            "of torchao'): `pip uninstall -y torchao`, or `pip install -U 'torchao>=0.16'`, and restart"
        )


def versions(others: Iterable[str] = ()) -> dict[str, str]:
    """Return the installed packages that can change a quantized model, each with its version.

    Args:
        others: packages of the method or the format.
    """
    all_versions = {package: _version(package) for package in (*_RELEVANT, *others)}
    installed = {package: version for package, version in all_versions.items() if version != _NOT_INSTALLED}
    return {"qtoolkit": __version__, "python": platform.python_version(), **installed}


def hardware(device: str) -> str:
    """Return the name of the hardware that a job runs on: the processor's for "cpu", otherwise the GPU's."""
    if device == "cpu":
        return processor()
    import torch

    return str(torch.cuda.get_device_name(device))


def _bfloat16() -> str:
    from qtoolkit.tensor.processor import bfloat16_is_fast, bfloat16_is_native

    if not bfloat16_is_fast():
        return f"multiplies bfloat16 in float32: {GGUF_IS_FASTER}"
    return f"{'' if bfloat16_is_native() else 'no '}bfloat16 instructions"


def _gpu(torch: Any, index: int) -> str:
    try:
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        with torch.cuda.device(index):
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    except RuntimeError as error:
        return f"cuda:{index}: {oneline(error)}"
    capability = f"compute capability {properties.major}.{properties.minor}"
    memory = f"{format_bytes(free)} free of {format_bytes(total)}"
    return f"cuda:{index}: {properties.name}, {memory}, {capability}, {'' if has_bf16 else 'no '}bfloat16"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return _NOT_INSTALLED


def _state(packages: tuple[str, ...]) -> str:
    """Return "ready", or the command that installs the missing packages."""
    missing = sorted({REQUIREMENTS[package] for package in packages if not is_installed(package)})
    return " ".join(["pip install", *(f"'{requirement}'" for requirement in missing)]) if missing else "ready"


def hub_cache() -> Path:
    """Return the folder of the Hub's cache by the rules of huggingface_hub (`huggingface_hub.constants`)."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{cache}/huggingface")
    folder = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return absolute(os.path.expandvars(folder))


def _private(text: str) -> str:
    """Return `text` with the home folder as `~`, and user and host names in other paths replaced."""
    home = home_folder()
    for folder in {str(home), str(absolute(home).resolve())} - {"/"}:
        text = re.sub(rf"(?<![\w./-]){re.escape(folder)}(?=/|$)", "~", text)
    for name, stand_in in ((home.name, "USER"), (platform.node(), "HOST")):
        if name:
            text = re.sub(rf"(?<=/){re.escape(name)}(?=/|$)", stand_in, text)
    return text
