"""A real IPython shell with the magics, and a method that another package brings."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A shell with `%load_ext qtoolkit` run; the working folder is empty."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    config = Config()
    config.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=config)
    shell.run_line_magic("load_ext", "qtoolkit")
    shell.run_line_magic("config", "QuantizeMagics.progress = 'none'")
    yield shell
    shell.restore_sys_module_state()
    InteractiveShell.clear_instance()


@pytest.fixture
def brought_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a method that a package outside qtoolkit brings, as pip would have installed it."""
    site = tmp_path / "site"
    metadata = site / "qtoolkit_halves-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: qtoolkit-halves\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[qtoolkit.methods]\nhalves = qtoolkit_halves:METHOD\n")
    (site / "qtoolkit_halves.py").write_text(
        dedent(
            '''
            from dataclasses import dataclass
            from typing import ClassVar

            from qtoolkit.methods import Method, MethodConfig, option


            @dataclass(frozen=True, kw_only=True)
            class Halves(MethodConfig):
                """Halves."""

                method: ClassVar[str] = "halves"
                rounds: int = option(3, help="how often to halve", choices=(1, 2, 3), unit="halvings")
                ratio: float | None = option(None, help="a ratio")
                sizes: tuple[int, ...] = option((), help="some sizes")
                model: str = option("m", help="named like an argument of the magic")


            class HalvesMethod(Method):
                """Halves."""

                config_class = Halves
                summary = "halves what it finds"

                def plan_layer(self, layer, config):
                    return layer.replaced(layer.num_weights, disk_bytes=layer.num_weights, working_bytes=0)

                def quantize(self, checkpoint, config, plan, on_progress):
                    raise NotImplementedError


            METHOD = HalvesMethod()
            '''
        )
    )
    monkeypatch.syspath_prepend(str(site))
    return "halves"
