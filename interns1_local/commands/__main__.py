"""`python -m interns1_local.commands` is `interns1`."""

from __future__ import annotations

from interns1_local.commands import main

if __name__ == "__main__":
    main()
