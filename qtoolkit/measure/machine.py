"""What this machine is: memory within the container's limits, devices, versions, and what runs on it."""

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from qtoolkit.errors import oneline
from qtoolkit.files import absolute, current_folder, home_folder
from qtoolkit.measure._cgroup import allowances
from qtoolkit.measure._limits import largest_file, process_limits, stack_bytes
from qtoolkit.measure.disk import free_disk, same_disk
from qtoolkit.measure.peak import resident_memory
from qtoolkit.optional import READING, REQUIREMENTS, RUNNING, is_installed
from qtoolkit.records import THIS_MACHINE, Doctor, Machine, Speed
from qtoolkit.units import format_bytes
from qtoolkit.version import __version__

PACKAGES = (
    *("qtoolkit", "torch", "transformers", "huggingface_hub", *RUNNING, "accelerate", "safetensors", "gguf"),
    *("IPython", "ipykernel", "ipywidgets", "jupyterlab"),
)
_DECIDING = ("torch", "transformers", "tokenizers", "safetensors", *RUNNING, *READING)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that a new job can have: what the system has free, and no more than a container or `ulimit` leaves.

    A control group's cache of inactive files does not count as used: the kernel gives it up first.

    Args:
        root: where `proc` and `sys` are found.
    """
    left = [limit.limit - limit.used for limit in process_limits(root)]
    return max(0, min([_free(root), *left]))


def resident_room(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes that a new job can have resident, and the `ulimit` that leaves no more; empty where that is none.

    Of addresses a job takes more than it has resident: stacks and heaps of threads, libraries that are loaded late.

    Args:
        root: where `proc` and `sys` are found.
    """
    torch = sys.modules.get("torch")
    stacks = (num_cores() if torch is None else torch.get_num_threads()) * stack_bytes(root)
    rooms = [(limit.limit - limit.used - limit.overhead - stacks, limit.command) for limit in process_limits(root)]
    room, command = min([(_free(root), ""), *rooms])
    return max(0, room), command


def limited_by(root: Path = Path("/")) -> str:
    """The `ulimit` that leaves least of what `available_memory` counts, "ulimit -v 4000000"; empty where none does.

    Args:
        root: where `proc` and `sys` are found.
    """
    rooms = [(limit.limit - limit.used, limit.command) for limit in process_limits(root)]
    return min([(_free(root), ""), *rooms])[1]


def _free(root: Path) -> int:
    """Bytes that the system and the container's limits leave."""
    left = [allowance.limit - allowance.used for allowance in allowances(root)]
    return min([psutil.virtual_memory().available, *left])


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may use at most: the machine's memory, or the smallest limit of a container or `ulimit`.

    Args:
        root: where `proc` and `sys` are found.
    """
    limits = [*(allowance.limit for allowance in allowances(root)), *(limit.limit for limit in process_limits(root))]
    total: int = psutil.virtual_memory().total
    return min([total, *limits])


def this_machine(output: Path, speed: Speed) -> Machine:
    """This machine as a job finds it now: what is free, and in main memory what this process has.

    Args:
        output: where results would be written.
        speed: as `measure_speed` found it.
    """
    vram: list[int] = []
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        # What torch keeps of freed memory is free for this process.
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
    """One line for the processor and one for each CUDA GPU. Asking a GPU for its free memory initialises CUDA."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return (_cpu(), f"torch does not import: {_private(oneline(error))}")
    instructions = torch.backends.cpu.get_cpu_capability()
    cpu = f"{_cpu()}, {instructions}, {_bfloat16()}"
    return (cpu, *(_gpu(torch, index) for index in range(torch.cuda.device_count())))


def examine(methods: Mapping[str, tuple[str, ...]]) -> Doctor:
    """This machine as the text that one pastes into a bug report: no user name, host name or token is in it.

    Packages are not imported, but for torch, which is asked for the devices.

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
        disk_free={_private(str(folder)): free_disk(folder) for folder in (hub_cache(), current_folder())},
        methods={name: _state(packages) for name, packages in methods.items()},
    )


def versions(others: Iterable[str] = ()) -> dict[str, str]:
    """The packages that decide what a quantized model is, each with its version; those that are not there left out.

    Args:
        others: packages that bring the method or the format.
    """
    found = {package: _version(package) for package in (*_DECIDING, *others)}
    there = {package: version for package, version in found.items() if version != "not installed"}
    return {"qtoolkit": __version__, "python": platform.python_version(), **there}


def hardware(device: str) -> str:
    """What a job runs on: the processor's name for "cpu", otherwise the GPU's."""
    if device == "cpu":
        return processor()
    import torch

    return str(torch.cuda.get_device_name(device))


def _cpu() -> str:
    return f"cpu: {processor()}, {num_cores()} of {os.cpu_count()} cores"


def _bfloat16() -> str:
    from qtoolkit.tensor.processor import bfloat16_is_fast, bfloat16_is_native

    if not bfloat16_is_fast():
        return "multiplies bfloat16 in float32"
    return f"{'' if bfloat16_is_native() else 'no '}bfloat16 instructions"


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the processor's name; `platform` knows it only off Linux."""
    file = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", file.read_text(), re.MULTILINE) if file.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


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
        return "not installed"


def _state(packages: tuple[str, ...]) -> str:
    """`ready`, or the command that installs what is missing."""
    missing = sorted({REQUIREMENTS[package] for package in packages if not is_installed(package)})
    return " ".join(["pip install", *(f"'{requirement}'" for requirement in missing)]) if missing else "ready"


def hub_cache() -> Path:
    """Return the folder of the Hub's cache, found as huggingface_hub finds it (`huggingface_hub.constants`)."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{cache}/huggingface")
    folder = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return absolute(os.path.expandvars(folder))


def _private(text: str) -> str:
    """`text` with the home folder as `~`, and the user's and the host's name in other paths replaced."""
    home = home_folder()
    for folder in {str(home), str(absolute(home).resolve())} - {"/"}:
        text = re.sub(rf"(?<![\w./-]){re.escape(folder)}(?=/|$)", "~", text)
    for name, stand_in in ((home.name, "USER"), (platform.node(), "HOST")):
        if name:
            text = re.sub(rf"(?<=/){re.escape(name)}(?=/|$)", stand_in, text)
    return text
