"""The `interns1` command. The code is in group.py: here, the module `list` would hide the built-in of that name."""

from __future__ import annotations

from interns1_local.commands.group import COMMANDS, LazyGroup, interns1, main

__all__ = ["COMMANDS", "LazyGroup", "interns1", "main"]
