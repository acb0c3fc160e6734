"""A real S3 endpoint on loopback for the tests, and one that answers as it is told."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from curation.io.remote import filesystem

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # ends when the tests do, however they end
"""


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks S3, and the log of what it was asked."""

    url: str
    log: Path

    @property
    def env(self) -> dict[str, str]:
        """Variables with which another process uses it."""
        return {
            "FSSPEC_S3_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def requests(self, method: str) -> list[str]:
        """Paths of the requests of one method so far."""
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text("utf-8"))  # all but the answer 200 is in colour
        return re.findall(rf'"{method} (\S+)', plain)


SECRET = "test-secret-that-must-not-show"


@contextmanager
def serving(folder: Path) -> Iterator[Endpoint]:
    """Run the server as long as the block lasts."""
    log = folder / "s3.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        with process:
            if process.stdout is None or process.stdin is None:
                raise AssertionError("the server has no pipes")
            port = next(line.strip() for line in process.stdout if line.strip().isdigit())
            try:
                yield Endpoint(f"http://127.0.0.1:{port}", log)
            finally:
                process.stdin.close()
                process.wait(30)


@contextmanager
def used(url: str, env: dict[str, str], patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process use another endpoint, or other credentials, as long as the block lasts."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # clients keep the credentials with which they began
    with patch.context() as inner:
        use(url, env, inner)
        yield
    S3FileSystem.clear_instance_cache()


def use(url: str, env: dict[str, str], patch: pytest.MonkeyPatch) -> None:
    """Name an endpoint and credentials, by environment and configuration of fsspec as a user would."""
    from fsspec.config import conf

    for name, value in env.items():
        patch.setenv(name, value)
    patch.setitem(conf, "s3", {"endpoint_url": url})


@dataclass(frozen=True)
class Bucket:
    """An empty bucket."""

    name: str
    endpoint: Endpoint

    @property
    def url(self) -> str:
        """URL of the bucket."""
        return f"s3://{self.name}"

    def tags(self) -> dict[str, str]:
        """ETag of every object, by path."""
        store = filesystem(self.url)
        store.invalidate_cache()
        found = store.find(self.name, detail=True)
        return {name.partition("/")[2]: str(info["ETag"]).strip('"') for name, info in found.items()}


def make_bucket(endpoint: Endpoint) -> Bucket:
    """Make a bucket with a name of its own."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    filesystem(f"s3://{name}").mkdir(name)
    return Bucket(name, endpoint)


class Scripted(ThreadingHTTPServer):
    """An endpoint that fails with one answer a number of times, then gives an empty object."""

    def __init__(self, status: int, code: str, times: int) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.status, self.body = status, f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()
        self.left, self.asked = times, 0
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answers(BaseHTTPRequestHandler):
    server: Scripted

    def answer(self) -> None:
        self.server.asked += 1
        self.server.paths.append(self.path)
        self.server.left -= 1
        status, body = (self.server.status, self.server.body) if self.server.left >= 0 else (200, b"fine")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = answer  # noqa: N815 - names of the base class

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def scripted(status: int, code: str, times: int) -> Iterator[Scripted]:
    """Run a scripted endpoint as long as the block lasts."""
    with Scripted(status, code, times) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent() -> Iterator[str]:
    """URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def closed_port() -> str:
    """URL on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def environment(**more: str) -> dict[str, str]:
    """Environment for another process that finds this source tree, without credentials of whoever runs the tests."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FSSPEC_"))}
    return own | {"PYTHONPATH": str(Path(__file__).parents[1])} | more
