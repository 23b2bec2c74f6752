"""A small Hub on the loopback: a real HTTP server that answers as huggingface.co does, and fails when it is told to.

Routes are methods named in `Handler.ROUTES`; a subclass adds routes, and `Hub(handler=...)` serves it.
"""

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fake_hub import listing

# What huggingface.co keeps in git itself; everything else is stored apart, as LFS.
_IN_GIT = (".json", ".txt", ".md", ".jinja", ".py", ".yml")
_PIECE = 64 * 1024


@dataclass
class Repository:
    """A model repository: files by commit, commits by branch or tag.

    `downloads` and `pipeline_tag` are what a search goes by; `claims` are fields that its answer states in place of the
    true ones.
    """

    repo_id: str
    private: bool = False
    gated: bool = False
    downloads: int = 0
    pipeline_tag: str = "text-generation"
    claims: dict[str, Any] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Put `files` on top of a branch; a new branch starts at `main`."""
        parent = self.refs.get(branch, self.refs.get("main", ""))
        content = {**self.commits.get(parent, {}), **files}
        listing = parent + "".join(f"{name} {_git_hash(content[name])}\n" for name in sorted(content))
        commit_hash = _git_hash(listing.encode())
        self.commits[commit_hash] = content
        self.refs[branch] = commit_hash
        return commit_hash

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong with requests for a path.

    Attributes:
        status: answered instead of the file; None to answer as usual.
        headers, body: of that answer.
        cut: bytes of the body after which the connection breaks; None for never.
        received: bytes of the request's body after which the connection breaks, with nothing done; None for never.
        unanswered: the request is done as asked, and the connection breaks before its answer.
        flipped: where a bit of the body is wrong; None for nowhere.
        pause: seconds before each 64 kB of the body, and of the request's.
        spared: requests that it leaves alone before.
        times: how many requests it befalls; None for all.
        lasting: nothing gets through any more afterwards, until `faults` is emptied.
    """

    path: str
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    received: int | None = None
    unanswered: bool = False
    flipped: int | None = None
    pause: float = 0.0
    spared: int = 0
    times: int | None = None
    lasting: bool = False


@dataclass
class Request:
    """One request; `received` counts the bytes of its body, `sent` those of the answer's."""

    method: str
    path: str
    range: str | None
    token: str | None
    status: int = 0
    received: int = 0
    sent: int = 0


class HubError(Exception):
    """An answer that is no success; `code` is what huggingface_hub goes by."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    ROUTES: ClassVar[list[tuple[str, str, str]]] = [
        ("GET", r"/api/models", "send_models"),
        ("GET", r"/api/models/(?P<repo_id>[^/]+/[^/]+)", "send_info"),
        ("GET", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)", "send_info"),
        ("GET", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", "send_tree"),
        ("GET", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/commits/(?P<revision>[^/]+)", "send_commits"),
        ("GET", r"/(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)", "send_file"),
    ]
    protocol_version = "HTTP/1.1"
    # An answer goes out in two pieces, the second of which would wait 40 ms for the client's acknowledgement.
    disable_nagle_algorithm = True
    server: "Hub"
    request_log: Request

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self) -> None:
        path = urlsplit(self.path).path
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.request_log = Request(self.command, unquote(path), self.headers.get("Range"), token)
        self.server.requests.append(self.request_log)
        self.fault = self.server.fault_for(self.request_log.path)
        self.body = b"".join(self.receive())
        if self.fault.lasting:
            self.server.faults.insert(0, Fault("", received=0))
        if self.fault.received is not None:
            self.close_connection = True
            return
        try:
            if self.fault.status is not None:
                self.respond(self.fault.status, self.fault.body, self.fault.headers)
            else:
                self.route(path)
        except HubError as error:
            self.respond_json({"error": str(error)}, error.status, error.headers)
        except OSError:
            # The client hung up.
            self.close_connection = True

    def receive(self) -> Iterator[bytes]:
        """The request's body, as far as it comes."""
        length = int(self.headers.get("Content-Length") or 0)
        whole = length if self.fault.received is None else min(length, self.fault.received)
        for start in range(0, whole, _PIECE):
            self.server.closing.wait(self.fault.pause)
            piece = self.rfile.read(min(_PIECE, whole - start))
            self.request_log.received += len(piece)
            yield piece

    def route(self, path: str) -> None:
        asked = "GET" if self.command == "HEAD" else self.command
        for method, pattern, name in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if method == asked and match:
                getattr(self, name)(**{key: unquote(value) for key, value in match.groupdict().items()})
                return
        raise HubError(404, "Sorry, we can't find the page you are looking for.")

    def respond(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.request_log.status = status
        if self.fault.unanswered:
            self.close_connection = True
            return
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault.flipped is not None:
            body = with_bit_flipped(body, self.fault.flipped)
        whole = len(body) if self.fault.cut is None else min(self.fault.cut, len(body))
        for start in range(0, whole, _PIECE):
            self.server.closing.wait(self.fault.pause)
            self.request_log.sent = min(start + _PIECE, whole)
            self.wfile.write(body[start : self.request_log.sent])
        self.close_connection = self.close_connection or whole < len(body)

    def respond_json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.respond(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def find(self, repo_id: str, revision: str = "main") -> tuple[Repository, str]:
        """The repository and commit that are asked for, if this token may see them."""
        token = self.request_log.token
        if token is not None and token not in self.server.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        repository = self.server.repositories.get(repo_id)
        if repository is None or (repository.private and token is None):
            # For http:// addresses huggingface_hub goes by the code alone.
            raise HubError(404 if token else 401, "Repository not found", "RepoNotFound")
        commit_hash = repository.resolve(revision)
        if commit_hash is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repository, commit_hash

    def send_models(self) -> None:
        token = self.request_log.token
        if token is not None and token not in self.server.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        seen = [entry for entry in self.server.repositories.values() if token or not entry.private]
        try:
            self.respond_json(listing.answer(seen, parse_qs(urlsplit(self.path).query)))
        except ValueError as error:
            raise HubError(400, str(error)) from error

    def send_info(self, repo_id: str, revision: str = "main") -> None:
        repository, commit_hash = self.find(repo_id, revision)
        siblings = []
        for name, content in repository.commits[commit_hash].items():
            entry = {"rfilename": name} | describe(name, content, self.server.claimed_sizes.get(name))
            entry["blobId"] = entry.pop("oid")
            if not self.server.names_hashes:
                del entry["blobId"]
                entry.pop("lfs", None)
            siblings.append(entry)
        info = {"_id": repo_id, "id": repo_id, "modelId": repo_id, "sha": commit_hash, "private": repository.private}
        info |= listing.card_data(repository.commits[commit_hash])
        self.respond_json(info | {"gated": "auto" if repository.gated else False, "tags": [], "siblings": siblings})
        self.server.after_info(repository)

    def send_commits(self, repo_id: str, revision: str) -> None:
        """The newest commit first; without those of other branches the first one is the same."""
        repository, _ = self.find(repo_id, revision)
        about = {"title": "", "message": "", "authors": [], "date": "2026-11-28T00:00:00.000Z"}
        self.respond_json([{"id": commit, **about} for commit in reversed(repository.commits)])

    def send_tree(self, repo_id: str, revision: str) -> None:
        repository, commit_hash = self.find(repo_id, revision)
        files = repository.commits[commit_hash]
        self.respond_json([{"type": "file", "path": name} | describe(name, files[name]) for name in files])

    def send_file(self, repo_id: str, revision: str, name: str) -> None:
        repository, commit_hash = self.find(repo_id, revision)
        token = self.request_log.token
        if repository.gated and token not in self.server.granted:
            raise HubError(403 if token else 401, f"Access to model {repo_id} is restricted.", "GatedRepo")
        content = repository.commits[commit_hash].get(name)
        if content is None:
            raise HubError(404, "Entry not found", "EntryNotFound")
        stored = describe(name, content)
        etag = stored["lfs"]["sha256"] if "lfs" in stored else stored["oid"]
        headers = {"X-Repo-Commit": commit_hash, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if "lfs" in stored:
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{etag}"'}
            headers |= self.server.storage_headers(repo_id, content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.request_log.range or "")
        if asked is None:
            self.respond(200, content, headers)
            return
        start, end = int(asked[1]), int(asked[2] or len(content) - 1)
        self.respond(206, content[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"})


def describe(name: str, content: bytes, claimed_size: int | None = None) -> dict[str, Any]:
    """What the API says of a file: size, git's hash of it, and the LFS record of a large one."""
    size = len(content) if claimed_size is None else claimed_size
    entry: dict[str, Any] = {"size": size, "oid": _git_hash(content)}
    if not name.endswith(_IN_GIT):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"sha256": digest, "oid": digest, "size": size, "pointerSize": 134}
    return entry


def with_bit_flipped(content: bytes, where: int) -> bytes:
    """The content with one wrong bit."""
    wrong = bytearray(content)
    wrong[where] ^= 1
    return bytes(wrong)


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Hub(ThreadingHTTPServer):
    """The server and what it holds; use it as a context manager.

    Attributes:
        url: its address, for HF_ENDPOINT.
        repositories: by id; `add` makes one.
        tokens: those that are valid; `granted` are those whose account accepted the licence of gated repositories.
        faults: what goes wrong; the first whose path (a regular expression) is found in the request's counts.
        claimed_sizes: sizes that the API states for a file name instead of the true ones.
        names_hashes: whether the API tells the hashes of files, as mirrors may not.
        requests: everything that was asked, oldest first.
    """

    daemon_threads = True

    def __init__(self, handler: type[Handler] = Handler) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.granted: set[str] = set()
        self.faults: list[Fault] = []
        self.claimed_sizes: dict[str, int] = {}
        self.names_hashes = True
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong in a request, but not that a client hung up between two of them."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def add(self, repo_id: str, files: Mapping[str, bytes] | Path, **settings: Any) -> Repository:
        """A repository with one commit; a folder gives all of its files."""
        if isinstance(files, Path):
            files = {str(file.relative_to(files)): file.read_bytes() for file in files.rglob("*") if file.is_file()}
        self.repositories[repo_id] = repository = Repository(repo_id, **settings)
        repository.commit(files)
        return repository

    def fault_for(self, path: str) -> Fault:
        for fault in self.faults:
            if re.search(fault.path, path) and fault.times != 0:
                if fault.spared:
                    fault.spared -= 1
                    continue
                fault.times = None if fault.times is None else fault.times - 1
                return fault
        return Fault(path)

    def after_info(self, repository: Repository) -> None:
        """Called when the API has answered about a repository."""

    def storage_headers(self, repo_id: str, content: bytes) -> dict[str, str]:
        """Headers that send the client elsewhere for a large file; none by default."""
        return {}

    def downloads(self, method: str = "GET") -> list[str]:
        """The files that were asked for, in order."""
        paths = [request.path for request in self.requests if request.method == method]
        return [path.split("/resolve/")[1].split("/", 1)[1] for path in paths if "/resolve/" in path]
