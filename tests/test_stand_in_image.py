"""The stand-in image: it carries the package files that the playbooks will ask for."""

from helpers.inventory import Inventory
from helpers.repository import ROOT


def test_the_image_holds_every_package_that_the_roles_install() -> None:
    fleet = Inventory(ROOT / "inventories/docker.yml")
    wanted = {package for host in fleet.hosts for package in fleet.value(host, "base_packages")}
    lines = (ROOT / "molecule/shared/image/packages.txt").read_text().splitlines()
    assert wanted <= {line for line in lines if not line.startswith("#")}
