"""Machines that one may plan for without having them."""

from qtoolkit.errors import ConfigError
from qtoolkit.records import Machine, Speed

_GB = 10**9
_GIB = 2**30

# GPU memory as torch reports it in total, less what a CUDA context takes (about 0.4 GB). Products: dense tensor-core
# peaks of NVIDIA's data sheets for 16 bits, and their float32; nothing reaches them, which the plan's range allows for.
# Colab: 12.7 GB of memory, of which a fresh session leaves 11.5; disks as its pages and users report them.
_SHEET = "data sheet"
_CPU = Speed(multiply=150e9, multiply32=100e9, memory=15e9, disk=150e6, source="an ordinary one of two cores")
PROFILES: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine("cpu-12gb", round(11.5 * _GB), cache_disk=80 * _GB, output_disk=80 * _GB, speed=_CPU),
        Machine("laptop-16gb", round(11.5 * _GIB), cache_disk=100 * _GB, output_disk=100 * _GB, speed=_CPU),
        Machine("laptop-32gb", 26 * _GIB, cache_disk=200 * _GB, output_disk=200 * _GB, speed=_CPU),
        Machine(
            "t4",
            round(11.5 * _GB),
            (round(14.6 * _GIB - 0.4 * _GB),),
            has_bfloat16=False,
            cache_disk=70 * _GB,
            output_disk=70 * _GB,
            speed=Speed(multiply=65e12, multiply32=8.1e12, memory=300e9, disk=150e6, source=_SHEET),
        ),
        Machine(
            "l4",
            50 * _GB,
            (round(22.2 * _GIB - 0.4 * _GB),),
            cache_disk=200 * _GB,
            output_disk=200 * _GB,
            speed=Speed(multiply=121e12, multiply32=30e12, memory=300e9, disk=300e6, source=_SHEET),
        ),
        Machine(
            "rtx-4090",
            56 * _GB,
            (round(23.5 * _GIB - 0.4 * _GB),),
            cache_disk=500 * _GB,
            output_disk=500 * _GB,
            speed=Speed(multiply=165e12, multiply32=83e12, memory=1008e9, disk=1e9, source=_SHEET),
        ),
        Machine(
            "a100-40",
            80 * _GB,
            (round(39.4 * _GIB - 0.4 * _GB),),
            cache_disk=200 * _GB,
            output_disk=200 * _GB,
            speed=Speed(multiply=312e12, multiply32=19.5e12, memory=1555e9, disk=300e6, source=_SHEET),
        ),
        Machine(
            "a100-80",
            160 * _GB,
            (round(79.1 * _GIB - 0.4 * _GB),),
            cache_disk=1000 * _GB,
            output_disk=1000 * _GB,
            speed=Speed(multiply=312e12, multiply32=19.5e12, memory=2039e9, disk=1e9, source=_SHEET),
        ),
        Machine(
            "h100-80",
            200 * _GB,
            (round(79.1 * _GIB - 0.4 * _GB),),
            cache_disk=1000 * _GB,
            output_disk=1000 * _GB,
            speed=Speed(multiply=989e12, multiply32=67e12, memory=3350e9, disk=1e9, source=_SHEET),
        ),
    )
}


def find_profile(name: str) -> Machine:
    """The machine of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PROFILES:
        raise ConfigError(f"no machine {name!r:.40}: the profiles are {', '.join(PROFILES)}; leave it out for this one")
    return PROFILES[name]
