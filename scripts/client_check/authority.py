"""A private authority for a test, and a server that shows its certificate and asks for keys."""

import contextlib
import pathlib
import secrets
import subprocess
import tempfile

import peregrine_server

from client_check.checks import Asked

EXTENSIONS = """\
subjectAltName = DNS:localhost, IP:127.0.0.1
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth
"""


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make(folder):
    """An authority, ca.pem, and what it vouches for: cert.pem with key.pem."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(folder, "req", "-x509", *curve, "-keyout", "ca-key.pem", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    openssl(folder, "req", *curve, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=localhost")
    (folder / "extensions").write_text(EXTENSIONS)
    signed_by = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-extfile", "extensions"]
    openssl(folder, "x509", "-req", "-in", "request.pem", *signed_by, "-out", "cert.pem", "-days", "2")


class Secured(Asked):
    """A server by https. `ca` is the file of its authority, and `key` what it asks for."""

    def __init__(self, started, ca, key):
        super().__init__(started.http, started.grpc, started)
        self.plain_url, self.url, self.ca, self.key = self.url, f"https://{started.http}", ca, key


@contextlib.contextmanager
def secured_server():
    with tempfile.TemporaryDirectory() as name:
        folder, key = pathlib.Path(name), secrets.token_hex(32)
        make(folder)
        (folder / "keys").write_text(f"# of this check alone\nclient-check {key}\n")
        files = {"--tls-cert": "cert.pem", "--tls-key": "key.pem", "--api-key-file": "keys"}
        flags = [word for flag, file in files.items() for word in (flag, str(folder / file))]
        with peregrine_server.server([*flags, "--drain-timeout", "1"]) as started:
            yield Secured(started, str(folder / "ca.pem"), key)
