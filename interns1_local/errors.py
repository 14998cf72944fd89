"""Every error that interns1_local raises on purpose, with the HTTP status that a protocol may give it.

InternS1Error
  BadRequest 400
    ContextOverflow   InvalidName   MediaError   Unsupported
  NotFound 404
    ModelNotFound
  Forbidden 403
  Cancelled 499
  LoadError 500
  WorkerDied 500
  UpstreamError 502
  Busy 503
"""

from __future__ import annotations


class InternS1Error(Exception):
    """An error with a sentence for the user: what was given, what was expected, what to do next."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(InternS1Error):
    status = 400
    code = "invalid_request"


class ContextOverflow(BadRequest):
    code = "context_overflow"


class InvalidName(BadRequest):
    code = "invalid_name"


class MediaError(BadRequest):
    code = "invalid_media"


class Unsupported(BadRequest):
    code = "unsupported"


class NotFound(InternS1Error):
    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class Forbidden(InternS1Error):
    status = 403
    code = "forbidden"


class Cancelled(InternS1Error):
    status = 499
    code = "cancelled"


class LoadError(InternS1Error):
    code = "load_failed"


class WorkerDied(InternS1Error):
    code = "worker_died"


class UpstreamError(InternS1Error):
    """The server that a model names as its engine is not there, fails, or answers nonsense."""

    status = 502
    code = "upstream_failed"


class Busy(InternS1Error):
    status = 503
    code = "busy"
