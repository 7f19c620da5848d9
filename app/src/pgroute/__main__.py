"""``python -m pgroute`` is ``pgroute``."""

from pgroute.cli import main

main()
