"""Servers on the loopback: MLflow's, as docs/cluster.md starts it, one that speaks S3, one that is asked for its health."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def serving(command: Sequence[str], url: str, log: Path) -> Iterator[None]:
    """Runs a server within the block, from when it answers; SIGKILL ends it."""
    with log.open("ab") as output:
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True, cwd=log.parent
        )
    try:
        until = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                assert time.monotonic() < until and server.poll() is None, log.read_text(encoding="utf-8")
                time.sleep(0.3)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """MLflow's server with a SQLite database and proxied artifacts; yields its URI."""
    program = str(Path(sys.executable).with_name("mlflow"))
    command = [program, "server", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--artifacts-destination",
               str(folder / "served"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    uri = f"http://127.0.0.1:{port}"
    with serving(command, f"{uri}/health", folder / "server.log"):
        yield uri


@contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[dict[str, str]]:
    """A server of S3's API (moto's) with an empty bucket; yields the environment that leads to it."""
    import boto3

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], url, folder / "s3.log"):
        environment = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
                       "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
        client = boto3.client("s3", endpoint_url=url, aws_access_key_id="key", aws_secret_access_key="secret",
                              region_name="us-east-1")  # fmt: skip
        client.create_bucket(Bucket=bucket)
        yield environment


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._reply(200 if self.server.healthy else 503, "text/plain", b"OK")  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._reply(*self.server.answer)  # type: ignore[attr-defined]

    def _reply(self, status: int, kind: str, body: bytes) -> None:
        self.server.heard.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def server_of_health() -> Iterator[http.server.HTTPServer]:
    """A server that answers GET with its ``healthy``, and POST with its ``answer``; ``heard`` are the questions."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Health)
    server.healthy, server.heard = True, []  # type: ignore[attr-defined]
    server.answer = (200, "application/json", b'{"experiments": []}')  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
