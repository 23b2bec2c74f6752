"""The writable Hub with Xet storage: hf_xet itself sends large files, in chunks, and only those that are not there.

hf_xet cuts files into chunks, packs new ones into xorbs (`xet.py` says how) and names in a shard, at last, which chunks
make up which file. A shard's sections, all little-endian, are rows of 48 bytes after a header of 48 (Xet protocol
specification, "MDB shard file format"):

    file    hash (32), flags (4), number of its segments (4), unused (8); a hash of 32 times 0xff ends the section
    segment hash of a xorb (32), flags (4), bytes (4), first chunk (4), last chunk + 1 (4)

The sections of its xorbs and their chunks follow, which are handed back as they came.
"""

import hashlib
import struct
import time

from tests.fake_hub.server import HubError
from tests.fake_hub.writable import WritableHandler, WritableHub

_ROW = 48
_VERIFIED, _WITH_SHA256 = 1 << 31, 1 << 30


class WritableXetHandler(WritableHandler):
    """Adds the routes that hf_xet asks when it sends files."""

    ROUTES = [  # noqa: RUF012
        *WritableHandler.ROUTES,
        ("GET", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/xet-write-token", "send_token"),
        ("GET", r"/api/models/(?P<repo_id>[^/]+/[^/]+)/xet-write-token/(?P<revision>[^/]+)", "send_token"),
        ("POST", r"/v1/xorbs/default/(?P<digest>[0-9a-f]{64})", "store_xorb"),
        ("POST", r"/v1/shards", "store_shard"),
        ("GET", r"/v1/chunks/default/(?P<digest>[0-9a-f]{64})", "send_shard"),
    ]
    server: "WritableXetHub"

    def send_token(self, repo_id: str, revision: str = "main") -> None:
        # For a pull request huggingface_hub names the branch "None".
        self.writable(repo_id, "main" if self.for_pull_request else revision, proposed=self.for_pull_request)
        self.respond_json({"casUrl": self.server.url, "accessToken": "xet", "exp": int(time.time()) + 3600})

    def store_xorb(self, digest: str) -> None:
        new = digest not in self.server.xorbs
        self.server.xorbs[digest] = chunks_of(self.body)
        self.respond_json({"was_inserted": new})

    def store_shard(self) -> None:
        contents, end = self.server.files_of(self.body)
        for content in contents:
            self.server.keep(hashlib.sha256(content).hexdigest(), content)
        self.server.shards.append(with_footer(self.body, end))
        self.respond_json({"result": 1})

    def send_shard(self, digest: str) -> None:
        """A shard that names a chunk, from which the client learns what it need not send."""
        chunk = struct.pack("<4Q", *(int(digest[at : at + 16], 16) for at in range(0, 64, 16)))
        found = [shard for shard in self.server.shards if chunk in shard]
        if not found:
            raise HubError(404, "Chunk not found")
        self.respond(200, found[0])


class WritableXetHub(WritableHub):
    """A Hub that takes large files through Xet.

    Attributes:
        xorbs: the chunks of each, by its hash.
        shards: as they came.
    """

    def __init__(self) -> None:
        super().__init__(WritableXetHandler)
        self.xorbs: dict[str, list[bytes]] = {}
        self.shards: list[bytes] = []

    def files_of(self, shard: bytes) -> tuple[list[bytes], int]:
        """The files that a shard describes, and where their section ends."""
        files, at = [], _ROW
        while shard[at : at + 32] != b"\xff" * 32:
            flags, count = struct.unpack_from("<II", shard, at + 32)
            content = b""
            for row in range(at + _ROW, at + _ROW * (1 + count), _ROW):
                size, start, end = struct.unpack_from("<III", shard, row + 36)
                # Xet writes a hash as four numbers of 8 bytes each.
                name = "".join(f"{number:016x}" for number in struct.unpack_from("<4Q", shard, row))
                if name not in self.xorbs:
                    raise HubError(400, f"the shard names a xorb that is not there: {name}")
                segment = b"".join(self.xorbs[name][start:end])
                assert len(segment) == size
                content += segment
            files.append(content)
            at += _ROW * (1 + count + (count if flags & _VERIFIED else 0) + (1 if flags & _WITH_SHA256 else 0))
        return files, at + _ROW


def with_footer(shard: bytes, start_of_xorbs: int) -> bytes:
    """A shard as the server hands it out: with a footer of 200 bytes, and its length in the header.

    The footer names where sections begin, and three tables, which are empty here; then a key (none), when it was made,
    until when it holds, and where itself begins.
    """
    end, now = len(shard), int(time.time())
    tables = (end, 0) * 3
    footer = struct.pack("<9Q32x2Q72xQ", 1, _ROW, start_of_xorbs, *tables, now, now + 3600, end)
    return shard[:40] + struct.pack("<Q", len(footer)) + shard[48:] + footer


def chunks_of(xorb: bytes) -> list[bytes]:
    """The chunks of a xorb, which must not be compressed; what follows them is no chunk of version 0."""
    chunks, at = [], 0
    while at < len(xorb) and xorb[at] == 0:
        stored, length = (int.from_bytes(xorb[start : start + 3], "little") for start in (at + 1, at + 5))
        assert (xorb[at + 4], stored) == (0, length), "set HF_XET_XORB_COMPRESSION_POLICY=none"
        chunks.append(xorb[at + 8 : at + 8 + length])
        at += 8 + length
    return chunks
