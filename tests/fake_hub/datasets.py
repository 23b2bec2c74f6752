"""The test Hub with dataset repositories, which HfFileSystem streams: as huggingface.co, under `datasets/org/name`."""

from urllib.parse import parse_qs, urlsplit

from tests.fake_hub.server import Handler, Hub, describe

_DATASET = r"(?P<repo_id>datasets/[^/]+/[^/]+)"


class DatasetHandler(Handler):
    """Adds the routes of datasets; `Hub.repositories` has them by the id `datasets/org/name`."""

    ROUTES = [  # noqa: RUF012
        *Handler.ROUTES,
        ("GET", rf"/api/{_DATASET}", "send_info"),
        ("GET", rf"/api/{_DATASET}/revision/(?P<revision>[^/]+)", "send_info"),
        ("GET", rf"/api/{_DATASET}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?", "send_folder"),
        ("POST", rf"/api/{_DATASET}/paths-info/(?P<revision>[^/]+)", "send_paths"),
        ("GET", rf"/{_DATASET}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", "send_file"),
    ]

    def send_folder(self, repo_id: str, revision: str, folder: str = "") -> None:
        repository, commit_hash = self.find(repo_id, revision)
        inside = f"{folder}/" if folder else ""
        asked = parse_qs(urlsplit(self.path).query)
        entries = {}
        for name, content in repository.commits[commit_hash].items():
            rest = name.removeprefix(inside)
            if name.startswith(inside) and ("/" not in rest or asked.get("recursive") == ["True"]):
                entries[name] = {"type": "file", "path": name} | describe(name, content)
            elif name.startswith(inside):
                path = inside + rest.split("/")[0]
                entries[path] = {"type": "directory", "path": path, "oid": "", "size": 0}
        self.respond_json(list(entries.values()))

    def send_paths(self, repo_id: str, revision: str) -> None:
        repository, commit_hash = self.find(repo_id, revision)
        files = repository.commits[commit_hash]
        names = [name for name in parse_qs(self.body.decode())["paths"] if name in files]
        self.respond_json([{"type": "file", "path": name} | describe(name, files[name]) for name in names])


class DatasetHub(Hub):
    """A Hub that has datasets too."""

    def __init__(self) -> None:
        super().__init__(DatasetHandler)
