"""Write the boards' JSON into ../files/dashboards, or into the folder given. Needs grafana-foundation-sdk==0.0.21."""

from __future__ import annotations

import sys
from pathlib import Path

import fleet
import host
import node
import partitions
import routing
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from library import finish

BOARDS = {"fleet": fleet, "host": host, "node": node, "partitions": partitions, "routing": routing}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "files/dashboards"
    for name, board in BOARDS.items():
        text = JSONEncoder(sort_keys=True, indent=2).encode(finish(board.build()))
        (folder / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
