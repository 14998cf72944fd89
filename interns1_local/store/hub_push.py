"""`push hf.co/owner/repo[:QUANT]`: a stored model's files to a repository of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interns1_local.errors import InternS1Error, Unsupported
from interns1_local.store.create import file_type_of
from interns1_local.store.hub import HUGGING_FACE_HOSTS
from interns1_local.store.model_store import StoredModel
from interns1_local.store.remote import RemoteError

Report = Callable[[dict[str, Any]], None]


def push_to_hub(model: StoredModel, report: Report) -> None:
    """Upload the model and its vision file under names that a pull of the same name finds again.

    The repository is made when it is not there. huggingface_hub skips what the hub has already, and goes on with an
    upload that was stopped. HF_TOKEN, or a login of huggingface-cli, says who uploads.
    """
    name = model.name
    if name.host.lower() not in HUGGING_FACE_HOSTS:
        raise Unsupported("models can be pushed to a registry and to hf.co; ModelScope only gives them")
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise InternS1Error("pushing to hf.co needs an account: set HF_TOKEN for the server, or huggingface-cli login")
    repository = f"{name.namespace}/{name.model}"
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    files = _files(model)
    if model.draft_path is not None:
        # A repository on hf.co does not say which files belong together: a pull would take it for the model.
        report({"status": "leaving out the draft model; who pulls this names one with DRAFT or INTERNS1_DRAFT"})
    try:
        api.create_repo(repository, exist_ok=True)
        for file, path in files.items():
            report({"status": f"pushing {file}", "total": path.stat().st_size})
            api.upload_file(
                path_or_fileobj=path, path_in_repo=file, repo_id=repository, commit_message=f"Upload {file}"
            )
            report({"status": f"pushing {file}", "total": path.stat().st_size, "completed": path.stat().st_size})
    except Exception as error:  # what it raises differs from version to version
        raise RemoteError(f"push to {repository}: {error or type(error).__name__}") from error


def _files(model: StoredModel) -> dict[str, Path]:
    """The files by the names that they have on the hub: Model-Q8_0.gguf, mmproj-Model-F16.gguf."""
    stem = model.name.model.removesuffix("-GGUF")
    quant = str(model.config.get("file_type") or model.name.tag)
    files = {f"{stem}-{quant}.gguf": model.model_path}
    if model.adapters:
        raise Unsupported(
            f"{model.name.short} has an adapter, and a repository on hf.co does not say which files belong together: "
            "push it to a registry, or merge the adapter into the model first (llama-export-lora)"
        )
    if model.mmproj_path is not None:
        files[f"mmproj-{stem}-{file_type_of(model.mmproj_path)}.gguf"] = model.mmproj_path
    return files
