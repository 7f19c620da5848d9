"""Unpack the collections that requirements.yml names from the Python package that bundles them.

Usage: unpack_collections.py requirements.yml ansible-X.whl destination
Fails when a collection is missing from the package or has another version than the one asked for.
"""

import json
import sys
import zipfile
from pathlib import Path

import yaml


def unpack(requirements: Path, bundle: Path, destination: Path) -> None:
    """Copy each required collection's files to destination/ansible_collections."""
    wanted = yaml.safe_load(requirements.read_text())["collections"]
    with zipfile.ZipFile(bundle) as wheel:
        names = wheel.namelist()
        for collection in wanted:
            folder = "ansible_collections/{}/".format(collection["name"].replace(".", "/"))
            members = [name for name in names if name.startswith(folder)]
            if not members:
                raise SystemExit(f"{bundle.name} does not carry {collection['name']}")
            manifest = json.loads(wheel.read(f"{folder}MANIFEST.json"))
            version = manifest["collection_info"]["version"]
            if version != collection["version"]:
                raise SystemExit(
                    f"{bundle.name} carries {collection['name']} {version}, "
                    f"{requirements.name} asks for {collection['version']}: change requirements.yml"
                )
            wheel.extractall(destination, members)
            print(f"{collection['name']} {version}")


if __name__ == "__main__":
    unpack(*(Path(argument) for argument in sys.argv[1:]))
