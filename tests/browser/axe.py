"""What axe-core finds wrong for people who cannot see, or not well, or who use no mouse."""

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Locator

# JupyterLab's <body> has no height and hides what overflows: axe takes all of the page for invisible, and looks at no
# contrast at all. So it gets its height while axe looks. Rules are all on; what lies outside of `shown` is not ours.
_RUN = """async shown => {
    const before = document.body.style.height;
    document.body.style.height = "100vh";
    try {
        const found = await axe.run({include: [shown]}, {resultTypes: ["violations"]});
        return found.violations.filter(rule => ["serious", "critical"].includes(rule.impact)).flatMap(
            rule => rule.nodes.map(node => `${rule.id}: ${node.html.slice(0, 200)}: ${node.failureSummary}`));
    } finally {
        document.body.style.height = before;
    }
}"""


def serious_faults(shown: Locator) -> list[str]:
    """The faults of serious or critical impact in a part of a page; those of JupyterLab around it are not counted."""
    shown.page.evaluate(AXE_SCRIPT)
    return shown.evaluate(_RUN)
