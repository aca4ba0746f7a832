"""``python -m nnsight_graph``: the command line."""

from .cli import main

raise SystemExit(main())
