"""Describe machines that a job can be planned for without having them."""

from qtoolkit.errors import ConfigError, did_you_mean
from qtoolkit.records import Machine, Speed

_GB = 10**9
_GIB = 2**30
# Bytes of a GPU's memory that a CUDA context takes.
_CONTEXT = 0.4 * _GB

# GPU memory: the total that torch reports, less a CUDA context. Products: dense tensor-core peaks of NVIDIA's data
# sheets for 16 bits, and their float32; no program reaches these peaks, which the range of a plan's times allows for.
# Colab: 12.7 GB of memory, of which a fresh session leaves 11.5; disks as its pages and users report them.
_CPU = Speed(multiply=150e9, multiply32=100e9, memory=15e9, disk=150e6, source="an ordinary one of two cores")


def _profile(
    name: str, memory: int, disk: int, speed: Speed, *, gpu: float = 0.0, has_bfloat16: bool = True
) -> Machine:
    """Return a machine with one disk and at most one GPU; `gpu` is the GPU memory in GiB that torch reports."""
    vram = (round(gpu * _GIB - _CONTEXT),) if gpu else ()
    return Machine(name, memory, vram, has_bfloat16=has_bfloat16, cache_disk=disk, output_disk=disk, speed=speed)


def _gpu(multiply: float, multiply32: float, memory: float, disk: float) -> Speed:
    return Speed(multiply=multiply, multiply32=multiply32, memory=memory, disk=disk, source="data sheet")


PROFILES: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        _profile("cpu-12gb", round(11.5 * _GB), 80 * _GB, _CPU),
        _profile("laptop-16gb", round(11.5 * _GIB), 100 * _GB, _CPU),
        _profile("laptop-32gb", 26 * _GIB, 200 * _GB, _CPU),
        _profile("t4", round(11.5 * _GB), 70 * _GB, _gpu(65e12, 8.1e12, 300e9, 150e6), gpu=14.6, has_bfloat16=False),
        _profile("l4", 50 * _GB, 200 * _GB, _gpu(121e12, 30e12, 300e9, 300e6), gpu=22.2),
        _profile("rtx-4090", 56 * _GB, 500 * _GB, _gpu(165e12, 83e12, 1008e9, 1e9), gpu=23.5),
        _profile("a100-40", 80 * _GB, 200 * _GB, _gpu(312e12, 19.5e12, 1555e9, 300e6), gpu=39.4),
        _profile("a100-80", 160 * _GB, 1000 * _GB, _gpu(312e12, 19.5e12, 2039e9, 1e9), gpu=79.1),
        _profile("h100-80", 200 * _GB, 1000 * _GB, _gpu(989e12, 67e12, 3350e9, 1e9), gpu=79.1),
    )
}


def find_profile(name: str) -> Machine:
    """Return the machine of this name; "T4" and "t4", "rtx_4090" and "rtx-4090" are the same.

    Raises:
        ConfigError: no profile has this name.
    """
    profile = PROFILES.get(name.lower().replace("_", "-"))
    if profile is None:
        hint = did_you_mean(name, PROFILES)
        raise ConfigError(
            f"machine must be one of {', '.join(PROFILES)}, or left out for this one, got {name!r:.40}"
            + (f": {hint.rstrip()}" if hint else "")
        )
    return profile
