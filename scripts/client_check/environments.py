"""Python environments of pinned clients, each with what its file in requirements/ says."""

import hashlib
import os
import pathlib
import subprocess
import sys

FOLDER = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = FOLDER / "requirements"
ROOT = FOLDER.parents[1]
CACHE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "client-check"


UV_VERSION = "0.13.9"
# It takes torch from the interpreter.
VENV_OPTIONS = {"guidellm": ["--system-site-packages"]}


class InstallError(Exception):
    """A client cannot be installed; the text is the installer's."""


def requirements(name):
    return REQUIREMENTS / f"{name}.txt"


def python(name):
    return CACHE / f"venv-{name}" / "bin" / "python"


def is_installed(name):
    stamp = CACHE / f"venv-{name}" / "requirements"
    return stamp.exists() and stamp.read_text() == digest(name)


def digest(name):
    """What an installed environment was made from."""
    return hashlib.sha256(requirements(name).read_bytes() + sys.version.encode()).hexdigest()


def run(*command):
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ended.returncode:
        raise InstallError(" ".join(ended.stdout.split())[-600:])


def uv():
    """The installer, a tenth of pip's time, which pip itself installs."""
    folder = CACHE / f"uv-{UV_VERSION}"
    program = folder / "bin" / "uv"
    if not program.exists():
        run(sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(folder), f"uv=={UV_VERSION}")
    return str(program)


def install(name):
    """Makes the environment `name`, if it is not there as its file says. Returns its interpreter."""
    if not is_installed(name):
        folder = CACHE / f"venv-{name}"
        run(uv(), "venv", "--quiet", "--clear", *VENV_OPTIONS.get(name, []), "--python", sys.executable, str(folder))
        # The file has all that is needed, with versions.
        install = ["pip", "install", "--quiet", "--no-deps", "--python", str(python(name))]
        run(uv(), *install, "--requirement", str(requirements(name)))
        (folder / "requirements").write_text(digest(name))
    return python(name)
