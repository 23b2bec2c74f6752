"""Define the verb `doctor`."""

from qtoolkit.measure.guard import explained
from qtoolkit.measure.host import examine
from qtoolkit.methods import available_methods, get_method
from qtoolkit.records import Doctor


@explained("examining this machine", "free some, or raise that limit")
def doctor() -> Doctor:
    """Return versions, devices, free memory and disk, and which methods run here: what a bug report needs."""
    return examine({name: get_method(name).requires for name in available_methods()})
