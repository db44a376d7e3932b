"""A real S3 server for tests: versitygw over a folder, on a random port of this machine."""

import os
import secrets
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from dev.programs import program


class S3Server:
    """The server. Folders of `buckets` are its buckets, files below them its objects."""

    def __init__(
        self, folder: Path, within: Sequence[str] = (), options: Sequence[str] = (), host: str = "127.0.0.1"
    ) -> None:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            free.bind((host, 0))
            self._address = f"[{host}]:{free.getsockname()[1]}" if ":" in host else f"{host}:{free.getsockname()[1]}"
        self.endpoint = f"http://{self._address}"
        self.buckets = folder / "buckets"
        self.credentials: Mapping[str, str] = {
            "AWS_ACCESS_KEY_ID": f"owner-{secrets.token_hex(4)}",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
        }
        """Of the server's owner, by the names that AWS gives them."""
        self._log = folder / "versitygw.log"
        accounts = folder / "accounts"
        for path in (self.buckets, accounts):
            path.mkdir(parents=True)
        self._command = (
            *(*within, str(program("versitygw")), "--port", self._address, "--health", "/health", "--quiet"),
            *("--iam-dir", str(accounts), "posix", *options, str(self.buckets)),
        )

    def start(self) -> None:
        """Run it, and return once it answers."""
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        access_key, secret_key = (self.credentials[name] for name in names)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={
                    "PATH": os.environ["PATH"],
                    "ROOT_ACCESS_KEY_ID": access_key,
                    "ROOT_SECRET_ACCESS_KEY": secret_key,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait()

    @retry(retry=retry_if_exception_type(OSError), stop=stop_after_delay(30), wait=wait_fixed(0.05), reraise=True)
    def _wait(self) -> None:
        if self._process.poll() is not None:
            pytest.fail(f"versitygw ended with status {self._process.returncode}: {self._log.read_text()[-2000:]}")
        with urllib.request.urlopen(f"{self.endpoint}/health", timeout=5):
            pass

    def kill(self) -> None:
        """End it at once, as `kill -9` does; buckets and objects stay."""
        self._process.kill()
        self._process.wait()

    def bucket(self) -> str:
        """A new bucket."""
        name = f"bucket-{secrets.token_hex(4)}"
        (self.buckets / name).mkdir()
        return name

    def user(self) -> Mapping[str, str]:
        """Credentials of a new user, who has access to no bucket."""
        name, secret = f"user-{secrets.token_hex(4)}", secrets.token_hex(16)
        subprocess.run(
            (
                *(program("versitygw"), "admin", "--endpoint-url", self.endpoint, "create-user"),
                *("--access", name, "--secret", secret, "--role", "user"),
            ),
            env={
                "ADMIN_ACCESS_KEY": self.credentials["AWS_ACCESS_KEY_ID"],
                "ADMIN_SECRET_KEY": self.credentials["AWS_SECRET_ACCESS_KEY"],
            },
            check=True,
            capture_output=True,
            timeout=30,
        )
        return {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": secret}


@contextmanager
def running_s3(
    folder: Path, *, within: Sequence[str] = (), options: Sequence[str] = (), host: str = "127.0.0.1"
) -> Iterator[S3Server]:
    """A server over `folder`/buckets, run by the command `within` where there is one; `options` are of its backend."""
    server = S3Server(folder, within, options, host)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the whole session; take a bucket of your own."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server
