"""Below the panels stand links to pages that exist, by the one address of the repository."""

import re

from qtoolkit.notebook.panel_names import PANELS
from qtoolkit.notebook.panels.docs_links import docs_links
from scripts.store_address import ROOT, address


def test_each_panel_has_a_page() -> None:
    found = re.findall(r'<a href="([^"]+)/blob/main/(docs/[^"]+)">', docs_links(PANELS))
    assert {repository for repository, _ in found} == {address()}
    assert len(found) == len(PANELS) and all((ROOT / page).is_file() for _, page in found)


def test_a_panel_alone_has_its_own() -> None:
    assert docs_links(("publish",)).count("<a ") == 1 and "publishing.md" in docs_links(("publish",))
