"""Python: models without a server. `from interns1_local import Interns1`."""

from interns1_local.api.answer import Answer
from interns1_local.api.asynchronous import AsyncInterns1
from interns1_local.api.synchronous import Interns1

__all__ = ["Answer", "AsyncInterns1", "Interns1"]
