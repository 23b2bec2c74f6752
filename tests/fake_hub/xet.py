"""The test Hub with Xet storage, as huggingface.co has it: large files come in xorbs, fetched by hf_xet itself.

hf_xet asks for a token, then which chunks of which xorbs make up a file, then for the xorbs. A xorb is a row of chunks,
each with a header of 8 bytes: version 0, stored length (3 bytes), compression 0 (none), length (3 bytes).
"""

import hashlib
import re
import time
from typing import Any

from tests.fake_hub.server import Handler, Hub, HubError

_CHUNK = 64 * 1024
_XORB = 16 * _CHUNK


class XetHandler(Handler):
    """Adds the routes that hf_xet asks."""

    ROUTES = [  # noqa: RUF012
        *Handler.ROUTES,
        ("GET", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/xet-read-token/(?P<revision>[^/]+)", "send_token"),
        ("GET", r"/v1/reconstructions/(?P<digest>[0-9a-f]{64})", "send_reconstruction"),
        ("GET", r"/xorbs/(?P<digest>[0-9a-f]{64})/(?P<number>\d+)", "send_xorb"),
    ]
    server: "XetHub"

    def send_token(self, repo_id: str, revision: str) -> None:
        self.find(repo_id, revision)
        expires = int(time.time()) + 3600
        headers = {
            "X-Xet-Cas-Url": self.server.url,
            "X-Xet-Access-Token": "xet",
            "X-Xet-Token-Expiration": str(expires),
        }
        self.respond_json({"casUrl": self.server.url, "accessToken": "xet", "exp": expires}, headers=headers)

    def send_reconstruction(self, digest: str) -> None:
        size = len(self.server.contents[digest])
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.request_log.range or f"bytes=0-{size - 1}")
        assert asked is not None
        start, end = int(asked[1]), min(int(asked[2]), size - 1)
        if start >= size:
            raise HubError(416, "Range not satisfiable")
        terms: list[dict[str, Any]] = []
        fetch_info = {}
        for number in range(start // _XORB, end // _XORB + 1):
            length = min(_XORB, size - number * _XORB)
            name = hashlib.sha256(f"{digest} {number}".encode()).hexdigest()
            chunks = {"start": 0, "end": -(-length // _CHUNK)}
            stored = {"start": 0, "end": length + 8 * chunks["end"] - 1}
            terms.append({"hash": name, "unpacked_length": length, "range": chunks})
            url = f"{self.server.url}/xorbs/{digest}/{number}"
            fetch_info[name] = [{"range": chunks, "url": url, "url_range": stored}]
        offset = start - start // _XORB * _XORB
        self.respond_json({"offset_into_first_range": offset, "terms": terms, "fetch_info": fetch_info})

    def send_xorb(self, digest: str, number: str) -> None:
        content = self.server.contents[digest][int(number) * _XORB :][:_XORB]
        chunks = [content[start : start + _CHUNK] for start in range(0, len(content), _CHUNK)]
        lengths = [len(chunk).to_bytes(3, "little") for chunk in chunks]
        stored = [b"\0" + length + b"\0" + length + chunk for length, chunk in zip(lengths, chunks, strict=True)]
        self.respond(206, b"".join(stored))


class XetHub(Hub):
    """A Hub that hands out large files through Xet."""

    def __init__(self) -> None:
        super().__init__(XetHandler)
        self.contents: dict[str, bytes] = {}

    def storage_headers(self, repo_id: str, content: bytes) -> dict[str, str]:
        digest = hashlib.sha256(content).hexdigest()
        self.contents[digest] = content
        token_url = f"{self.url}/api/models/{repo_id}/xet-read-token/main"
        return {"X-Xet-Hash": digest, "Link": f'<{token_url}>; rel="xet-auth"'}
