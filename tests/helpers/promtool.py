"""promtool: this machine's own, else the one that the stand-in image carries for its nodes."""

import functools
import io
import shutil
import subprocess
import tarfile
from collections.abc import Mapping

import pytest

from helpers.standin import IMAGE

# The image keeps the packages that nodes will install; the program is unpacked from one of them, nothing is installed.
_IN_THE_IMAGE = """
cd /run
package=$(ls /var/cache/apt/archives/promtool_*.deb /var/cache/apt/archives/prometheus_*.deb 2>&- | sort -r | head -n 1)
dpkg-deb --extract "$package" .
mkdir work && cd work && tar --extract && PATH=/run/usr/bin:$PATH exec "$@" 2>&1
"""


@functools.cache
def _has_image() -> bool:
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode == 0


def promtool(*arguments: str, files: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and output of promtool, run in a folder that holds these files and nothing else."""
    if not _has_image() and not shutil.which("promtool"):
        pytest.fail(f"no promtool: install Debian's package prometheus, or build the image {IMAGE} with ./fleet up")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content.encode())
            archive.addfile(entry, io.BytesIO(content.encode()))
    command = ["promtool", *arguments]
    if _has_image():  # the version that nodes run
        words = ["docker", "run", "--rm", "--interactive", "--network", "none",
                 "--tmpfs", "/run:exec", "--tmpfs", "/tmp", "--entrypoint", "sh", IMAGE, "-euc", _IN_THE_IMAGE, "sh"]
    else:
        words = ["sh", "-euc", 'cd "$(mktemp -d)" && tar --extract && exec "$@" 2>&1', "sh"]
    done = subprocess.run([*words, *command], input=packed.getvalue(), capture_output=True, check=False, timeout=900)
    return done.returncode, (done.stdout + done.stderr).decode()
