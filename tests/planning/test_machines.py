"""Names of machines, however they are spelled."""

import pytest

from qtoolkit.errors import ConfigError
from qtoolkit.planning.machines import PROFILES, find_profile


@pytest.mark.parametrize(("name", "found"), [("T4", "t4"), ("rtx_4090", "rtx-4090"), ("A100-80", "a100-80")])
def test_case_and_hyphens_do_not_count(name: str, found: str) -> None:
    assert find_profile(name) is PROFILES[found]


def test_a_mistyped_machine_is_told_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"got 'rtx4090': did you mean rtx-4090\?"):
        find_profile("rtx4090")
