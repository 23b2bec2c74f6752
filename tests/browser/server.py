"""A JupyterLab of the tests' own: a folder, settings and a free port that nobody else uses."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import nbformat

ROOT = Path(__file__).parents[2]
# Seconds; two slow cores that do other work too.
PATIENCE = 120


class LabServer:
    """JupyterLab, and Voila beside it, in a process of its own; use it as a context manager.

    Args:
        home: an empty folder for all that it reads and keeps.
        environment: what its kernels get, beside this process's own.

    Attributes:
        work: the folder that it shows, in which its notebooks run.
        url: its address, with a slash at its end.
        token: what lets a browser in.
    """

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self.work = home / "work"
        self._log, self._runtime = home / "server.log", home / "runtime"
        self.work.mkdir()
        news = home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        news.parent.mkdir(parents=True)
        # Otherwise it looks for newer versions of itself, and asks whether it shall bring news.
        news.write_text('{"checkForUpdates": false, "fetchNews": "false"}', encoding="utf-8")
        folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "IPYTHONDIR": "ipython"}
        folders |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
        own = {name: str(home / folder) for name, folder in folders.items()}
        own |= {"JUPYTER_RUNTIME_DIR": str(self._runtime), "PYTHONPATH": str(ROOT)}
        self._environment = {**os.environ, **own, **environment}

    def __enter__(self) -> Self:
        # The tests ask the page's own object for commands, which it shows only if it is told to.
        options = [f"--ServerApp.root_dir={self.work}", "--ServerApp.port=0", "--LabApp.expose_app_in_browser=True"]
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", *options]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            self.url, self.token = self._address()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            # It waits for a kernel that is already gone; one that is left ends by itself when its server has.
            self._process.kill()
            self._process.wait()

    def _address(self) -> tuple[str, str]:
        """The address and the token, which the server writes down when it is up."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self._process.poll() is None:
            for file in self._runtime.glob("jpserver-*.json"):
                try:
                    told = json.loads(file.read_text(encoding="utf-8"))
                except json.JSONDecodeError:
                    break  # half written
                return told["url"], told["token"]
            time.sleep(0.05)
        raise RuntimeError(f"JupyterLab did not start: {self._log.read_text(encoding='utf-8')}")

    def write(self, name: str, *cells: str) -> None:
        """Put a notebook with these code cells into the folder."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        nbformat.write(notebook, self.work / name)

    def read(self, name: str) -> nbformat.NotebookNode:
        """A notebook as it lies in the folder."""
        notebook: nbformat.NotebookNode = nbformat.read(self.work / name, as_version=4)
        nbformat.validate(notebook)
        return notebook
