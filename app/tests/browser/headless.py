"""A headless browser in a container of its own, for the tests of the service's page.

Chromium and its driver come from Debian into an image on the stand-ins' base, built when it is
missing or its Dockerfile has changed. The container shares the host's network: the browser reaches
what a test serves on loopback, and the driver listens there.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import ChromeOptions, Remote
from selenium.webdriver.common.proxy import Proxy, ProxyType
from selenium.webdriver.remote.client_config import ClientConfig
from selenium.webdriver.remote.remote_connection import RemoteConnection

from tests.servers import FIRST_PORT, IMAGE

BROWSER_IMAGE = "pgfleet/browser:trixie"
LABEL = "pgroute.browser"
DRIVER_PORT = FIRST_PORT + 90
HERE = Path(__file__).parent


def docker(*arguments: str, seconds: float = 60) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def build() -> None:
    """Make the image, unless the one that is there was made from these very files."""
    base = docker("image", "inspect", "--format={{.Id}}", IMAGE)
    content = hashlib.sha256(base.encode() + (HERE / "Dockerfile").read_bytes()).hexdigest()
    found = subprocess.run(
        ["docker", "image", "inspect", f'--format={{{{index .Config.Labels "{LABEL}"}}}}',
         BROWSER_IMAGE],
        capture_output=True, text=True,
    )  # fmt: skip
    if found.stdout.strip() != content:
        docker(
            "build", f"--label={LABEL}={content}", f"--tag={BROWSER_IMAGE}", str(HERE),
            seconds=900,
        )  # fmt: skip


@contextmanager
def browser() -> Iterator[Remote]:
    """A browser that records what the page writes to its console."""
    build()
    name = f"pgroute-browser-{DRIVER_PORT}"
    docker(
        "run", "--detach", "--rm", "--init", f"--name={name}", "--network=host", "--shm-size=256m",
        BROWSER_IMAGE, f"--port={DRIVER_PORT}",
    )  # fmt: skip
    try:
        _until_ready(f"http://127.0.0.1:{DRIVER_PORT}/status")
        options = ChromeOptions()
        for argument in (
            "--headless=new",
            "--no-sandbox",  # an engine's containers may not nest namespaces; the page is ours
            "--window-size=1280,1400",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        config = ClientConfig(
            f"http://127.0.0.1:{DRIVER_PORT}", proxy=Proxy({"proxyType": ProxyType.DIRECT})
        )
        connection = RemoteConnection(client_config=config)
        connection.add_command("getLog", "POST", "/session/$sessionId/se/log")  # type: ignore[no-untyped-call]
        driver = Remote(connection, options=options)
        try:
            yield driver
        finally:
            driver.quit()
    finally:
        docker("kill", name)


def _until_ready(url: str, *, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < until, f"no driver at {url} within {seconds} s"
            time.sleep(0.1)


def console_errors(driver: Remote) -> list[str]:
    """What the page has written as an error since the last call."""
    entries = driver.execute("getLog", {"type": "browser"})["value"]
    return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]


def keep_screenshot(driver: Remote, name: str) -> None:
    """Into the folder PGROUTE_TEST_SCREENSHOTS, where that is set."""
    folder = os.environ.get("PGROUTE_TEST_SCREENSHOTS")
    if folder:
        driver.save_screenshot(str(Path(folder, f"{name}.png")))
