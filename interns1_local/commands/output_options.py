"""The options that `convert` and `quantize` share: how the output is made, and whether it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

_OPTIONS = (
    click.option("--imatrix", type=click.Path(path_type=Path), help="An importance matrix (GGUF)."),
    click.option(
        "--tensor-type",
        "tensor_types",
        multiple=True,
        metavar="REGEX=TYPE",
        help="Another type for tensors whose name matches (attn_v=q8_0); the first match wins. Repeatable.",
    ),
    click.option("--split-max-size", metavar="SIZE", help="Write the model in parts of at most SIZE (50G, 500M)."),
    click.option("--jobs", default=0, metavar="N", help="Threads (default: one for each core)."),
    click.option("--force", is_flag=True, help="Overwrite files that exist; begin anew after a stopped run."),
    click.option("--dry-run", is_flag=True, help="Show what would be written, and write no model."),
    click.option("--json", "as_json", is_flag=True, help="With --dry-run: as JSON."),
)


def output_options(command: Command) -> Command:
    """Add the options, in this order, after those that stand above."""
    return reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), command)
