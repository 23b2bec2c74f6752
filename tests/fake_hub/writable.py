"""A Hub that is written to as well: repositories are made, large files go to storage first, and commits name them."""

import base64
import hashlib
import json
import re
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.fake_hub.server import Handler, Hub, HubError, Repository, describe

_ALLOWED = {
    "license": ("apache-2.0", "mit", "llama3.2", "gemma", "other"),
    "base_model_relation": ("quantized", "finetune", "adapter", "merge"),
    "pipeline_tag": ("text-generation", "image-text-to-text"),
}
# Parts of a large file; the real Hub takes larger ones.
PART = 256 * 1024


class WritableHandler(Handler):
    """Answers what `create_repo`, `create_commit` and `whoami` ask, in LFS mode."""

    server: "WritableHub"
    ROUTES: ClassVar[list[tuple[str, str, str]]] = [
        *Handler.ROUTES,
        ("GET", r"/api/whoami-v2", "send_whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("PUT", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/settings", "change_settings"),
        ("POST", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)", "make_branch"),
        ("POST", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/(?P<repo_id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})", "store"),
        ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})/(?P<part>\d+)", "store_part"),
        ("POST", r"/storage/(?P<oid>[0-9a-f]{64})", "join_parts"),
        ("POST", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("GET", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/discussions", "send_pull_requests"),
    ]

    def writer(self) -> str:
        """The name of the account whose token may write."""
        token = self.request_log.token
        if token not in self.server.tokens:
            raise HubError(401, "Invalid username or password.")
        if token not in self.server.writers:
            raise HubError(403, "Forbidden: this token may only read")
        return self.server.writers[token]

    @property
    def for_pull_request(self) -> bool:
        return parse_qs(urlsplit(self.path).query).get("create_pr") == ["1"]

    def writable(self, repo_id: str, revision: str = "main", *, proposed: bool = False) -> tuple[Repository, str]:
        """The repository and commit, if this token may write there; a pull request needs less."""
        account = self.writer()
        repository, commit_hash = self.find(repo_id, revision)
        owned = repo_id.split("/", maxsplit=1)[0] == account
        if not owned and (not proposed or self.request_log.token in self.server.own_only):
            raise HubError(403, f"Forbidden: you have no right to write to {repo_id}")
        return repository, commit_hash

    def send_whoami(self) -> None:
        token = self.request_log.token
        if token is None or token not in self.server.tokens:
            raise HubError(401, "Invalid username or password.")
        role = "write" if token in self.server.writers else "read"
        name = self.server.writers.get(token, "reader")
        self.respond_json({"name": name, "type": "user", "orgs": [], "auth": {"accessToken": {"role": role}}})

    def create(self) -> None:
        account, asked = self.writer(), json.loads(self.body)
        owner = asked["organization"] or account
        repo_id = f"{owner}/{asked['name']}"
        if owner != account:
            raise HubError(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        url = {"url": f"{self.server.url}/{repo_id}"}
        if repo_id in self.server.repositories:
            self.respond_json(url | {"error": "You already created this model repo"}, 409)
            return
        self.server.add(repo_id, {".gitattributes": b""}, private=asked.get("visibility") == "private")
        self.respond_json(url)

    def change_settings(self, repo_id: str) -> None:
        repository, _ = self.writable(repo_id)
        repository.gated = json.loads(self.body).get("gated", repository.gated) is not False
        self.respond_json({})

    def make_branch(self, repo_id: str, revision: str) -> None:
        repository, commit_hash = self.writable(repo_id)
        if revision in repository.refs:
            raise HubError(409, "Reference already exists")
        repository.refs[revision] = json.loads(self.body or b"{}").get("startingPoint") or commit_hash
        self.respond_json({})

    def validate(self) -> None:
        """Answer as the Hub, for what a model's card must be and have."""
        found = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        try:
            values = yaml.safe_load(found[1]) if found else {}
        except yaml.YAMLError as error:
            values, problems = {}, [f"YAML cannot be read: {error}"]
        else:
            problems = [
                f'"{key}" must be one of {", ".join(allowed)}'
                for key, allowed in _ALLOWED.items()
                if values.get(key, allowed[0]) not in allowed
            ]
        errors = [{"message": problem} for problem in problems]
        self.respond_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, repo_id: str, revision: str) -> None:
        repository, commit_hash = self.writable(repo_id, revision, proposed=self.for_pull_request)
        present = repository.commits[commit_hash]
        files = []
        for asked in json.loads(self.body)["files"]:
            name = asked["path"]
            mode = "lfs" if "lfs" in describe(name, b"") else "regular"
            found = describe(name, present[name]) if name in present else None
            oid = None if found is None else found["lfs"]["oid"] if "lfs" in found else found["oid"]
            files.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.respond_json({"files": files})

    def batch(self, repo_id: str) -> None:
        asked = json.loads(self.body)
        # Without a branch it is for a pull request.
        self.writable(repo_id, proposed="ref" not in asked)
        self.respond_json({"transfer": "multipart", "objects": list(map(self.upload_of, asked["objects"]))})

    def upload_of(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Where an object is sent, unless it is there."""
        oid, size = asked["oid"], asked["size"]
        if oid in self.server.storage:
            return asked
        href = f"{self.server.url}/storage/{oid}"
        upload: dict[str, Any] = {"href": href}
        if size > PART:
            parts = range(1, -(-size // PART) + 1)
            upload["header"] = {"chunk_size": str(PART)} | {str(part): f"{href}/{part}" for part in parts}
        return asked | {"actions": {"upload": upload}}

    def store(self, oid: str) -> None:
        self.server.keep(oid, self.body)
        self.respond(200)

    def store_part(self, oid: str, part: str) -> None:
        self.server.parts[oid, int(part)] = self.body
        self.respond(200, headers={"ETag": f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'})

    def join_parts(self, oid: str) -> None:
        numbers = sorted(part["partNumber"] for part in json.loads(self.body)["parts"])
        # Asked again, when the answer was lost, they are joined already.
        if oid not in self.server.storage:
            self.server.keep(oid, b"".join(self.server.parts.pop((oid, number)) for number in numbers))
        self.respond_json({})

    def commit(self, repo_id: str, revision: str) -> None:
        repository, commit_hash = self.writable(repo_id, revision, proposed=self.for_pull_request)
        files, title = {}, ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, commit_hash):
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.server.storage:
                    raise HubError(400, f"LFS pointer to an object that is not there: {value['path']}")
                files[value["path"]] = self.server.storage[value["oid"]]
        branch = revision
        if self.for_pull_request:
            self.server.pull_requests.append((repo_id, self.writer()))
            branch = f"refs/pr/{len(self.server.pull_requests)}"
            repository.refs[branch] = commit_hash
        made = repository.commit(files, branch)
        self.server.commits.append((repo_id, title, sorted(files)))
        answer = {"success": True, "commitOid": made, "commitUrl": f"{self.server.url}/{repo_id}/commit/{made}"}
        if branch != revision:
            answer["pullRequestUrl"] = f"{self.server.url}/{repo_id}/discussions/{len(self.server.pull_requests)}"
        self.respond_json(answer)

    def send_pull_requests(self, repo_id: str) -> None:
        self.find(repo_id)
        author = parse_qs(urlsplit(self.path).query)["author"][0]
        common = {"title": "t", "repo": {"name": repo_id, "type": "model"}, "author": {"name": author}}
        common |= {"isPullRequest": True, "status": "open", "createdAt": "2026-01-01T00:00:00.000Z"}
        made = enumerate(self.server.pull_requests, start=1)
        found = [common | {"num": number} for number, request in made if request == (repo_id, author)]
        self.respond_json({"discussions": found, "count": len(found), "start": 0})


class WritableHub(Hub):
    """A Hub that is written to.

    Attributes:
        writers: token -> the account that it writes for.
        storage: large files by their SHA-256, whether or not a commit names them.
        parts: of files that are not whole yet, by SHA-256 and number.
        commits: repository, title and files of each commit that a client made.
        pull_requests: repository and account of each.
        own_only: tokens that may not even open pull requests elsewhere.
    """

    def __init__(self, handler: type[Handler] = WritableHandler) -> None:
        super().__init__(handler)
        self.writers: dict[str, str] = {}
        self.storage: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.commits: list[tuple[str, str, list[str]]] = []
        self.pull_requests: list[tuple[str, str]] = []
        self.own_only: set[str] = set()

    def keep(self, oid: str, content: bytes) -> None:
        """Store a large file, which must be what it is said to be."""
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(422, "the content is not that of the oid")
        self.storage[oid] = content
