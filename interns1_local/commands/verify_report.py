"""The report of `interns1 verify`: one page that says what was compared, what came out, and how to read it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from interns1_local import __version__
from interns1_local.commands.format import format_bytes
from interns1_local.commands.verify_checks import (
    CLOSE,
    DIFFERS,
    EMBEDDINGS,
    IDS,
    LARGEST_LEVEL_DIFFERENCE,
    LOGITS,
    REPORTED,
    SCORE,
    TILES,
    Check,
    Verification,
    read_divergence,
)
from interns1_local.commands.verify_gguf import model_files, sha256
from interns1_local.engine import scoring

Report = dict[str, Any]

_LOGIT_COLUMNS = (
    ("cosine min", "cosine_min", "{:.6f}"),
    ("mean", "cosine_mean", "{:.6f}"),
    ("largest difference", "max_difference", "{:.2g}"),
    ("KL mean", "kl_mean", "{:.2g}"),
    ("KL max", "kl_max", "{:.2g}"),
    ("same first choice", "top1", "{:.1%}"),
)


def build(verification: Verification, checkpoint: Path, mmproj: Path | None, settings: dict[str, Any]) -> Report:
    """Everything that is known, ready for JSON."""
    ours, reference = verification.ours, verification.reference
    files = [_file(path, "model") for path in ours.files]
    files += [_file(path, "mmproj") for path in (model_files(mmproj) if mmproj else [])]
    figures = verification.logits_together()
    return {
        "ok": verification.ok,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
        "types": {"model": ours.types, **({"mmproj": ours.mmproj_types} if mmproj else {})},
        "checkpoint": {
            "name": checkpoint.resolve().name,
            "architecture": reference.architecture,
            "config_sha256": sha256(checkpoint / "config.json"),
        },
        "versions": {
            "interns1-local": __version__,
            "llama.cpp": scoring.version(),
            **{name: version(name) for name in ("llama-cpp-python", "transformers", "torch", "tokenizers")},
        },
        "machine": _machine(),
        "settings": {**settings, "tokens": verification.limit},
        "all_texts": None if figures is None else asdict(figures),
        "checks": [asdict(check) for check in verification.checks],
        "notes": verification.notes,
    }


def markdown(report: Report) -> str:
    """The page."""
    checks = [Check(**each) for each in report["checks"]]
    wrong = [check for check in checks if check.verdict == DIFFERS]
    model = report["files"][0]["name"]
    lines = [f"# {model} against {report['checkpoint']['name']}", ""]
    lines += [_verdict(checks, wrong), ""]
    lines += [f"- {line}" for line in _summary(checks, report["all_texts"])]
    lines += ["", *_compared(report), ""]
    lines += _logit_table(checks, report["all_texts"])
    lines += _score_table(checks)
    lines += _picture_table(checks)
    if wrong:
        lines += ["## What differs", "", *(f"- {c.kind}, {c.subject}: {c.reading}" for c in wrong), ""]
    lines += ["## How to read this", "", *_legend(report)]
    return "\n".join(lines).rstrip() + "\n"


def _verdict(checks: Sequence[Check], wrong: Sequence[Check]) -> str:
    held = sum(check.verdict not in (DIFFERS, REPORTED) for check in checks)
    if wrong:
        return f"**{len(wrong)} of {len(wrong) + held} comparisons that must hold do not.**"
    reported = sum(check.verdict == REPORTED for check in checks)
    rest = f" {reported} more are reported: their types round, so no bound is set." if reported else ""
    return f"**All {held} comparisons that must hold do.**{rest}"


def _summary(checks: Sequence[Check], all_texts: dict[str, Any] | None) -> list[str]:
    """One line for each kind of comparison."""
    lines = []
    for kind in (IDS, LOGITS, SCORE, TILES, EMBEDDINGS):
        of_kind = [check for check in checks if check.kind == kind]
        if not of_kind:
            continue
        verdicts = {check.verdict for check in of_kind}
        wrong = sum(check.verdict == DIFFERS for check in of_kind)
        worst = f"{DIFFERS} in {wrong} of {len(of_kind)}" if wrong else "/".join(sorted(verdicts))
        more = ""
        if kind == LOGITS and all_texts and all_texts["kl_mean"] is not None:
            more = f"; over {all_texts['positions']} positions: {read_divergence(all_texts['kl_mean'])}"
        lines.append(f"{kind}: {worst} ({len(of_kind)} compared{more})")
    return lines


def _compared(report: Report) -> list[str]:
    rows = []
    for file in report["files"]:
        types = ", ".join(f"{count} {name}" for name, count in report["types"][file["kind"]].items())
        rows.append([file["kind"], f"{file['name']}, {format_bytes(file['bytes'])}, tensors: {types}"])
        rows.append(["sha256", file["sha256"]])
    checkpoint, settings = report["checkpoint"], report["settings"]
    rows.append(["checkpoint", f"{checkpoint['name']}, {checkpoint['architecture']}"])
    rows.append(["its config.json", f"sha256 {checkpoint['config_sha256']}"])
    rows.append(["software", ", ".join(f"{name} {number}" for name, number in report["versions"].items())])
    machine = report["machine"]
    rows.append(["machine", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"])
    weights = f"reference weights as {settings['dtype']}, computed in float32"
    rows.append(["computed", f"{report['date']}, {weights}; up to {settings['tokens']} tokens a text"])
    return _table(["what", "which"], rows)


def _logit_table(checks: Sequence[Check], all_texts: dict[str, Any] | None) -> list[str]:
    found = {check.subject: check for check in checks if check.kind == LOGITS}
    ids = {check.subject: check for check in checks if check.kind == IDS}
    if not ids and not found:
        return []
    rows = []
    for subject in dict.fromkeys([*ids, *found]):
        logits = found.get(subject)
        row = [subject, _ids(ids.get(subject)), *_cells(logits.figures if logits else {})]
        rows.append([*row, logits.verdict if logits else ids[subject].verdict])
    if all_texts is not None:
        rows.append(["**all texts**", "", *_cells(all_texts), ""])
    columns = ["text", "token ids", "positions", *(title for title, _, _ in _LOGIT_COLUMNS), "verdict"]
    return ["## Token ids and logits", "", *_table(columns, rows), ""]


def _ids(check: Check | None) -> str:
    if check is None:
        return "-"
    if check.verdict == DIFFERS:
        at = check.figures.get("first_difference")
        return DIFFERS if at is None else f"{DIFFERS} at {at}"
    return f"{check.figures['tokens']} the same"


def _cells(figures: dict[str, Any]) -> list[str]:
    if not figures:
        return ["-"] * (len(_LOGIT_COLUMNS) + 1)
    values = [(figures[key], form) for _, key, form in _LOGIT_COLUMNS]
    return [str(figures["positions"]), *("-" if value is None else form.format(value) for value, form in values)]


def _score_table(checks: Sequence[Check]) -> list[str]:
    rows = []
    for check in checks:
        if check.kind == SCORE and check.figures:
            figures = check.figures
            forms = (("reference", "{:+.4f}"), ("ours", "{:+.4f}"), ("difference", "{:.2g}"), ("cosine", "{:.6f}"))
            cells = ["-" if figures[key] is None else form.format(figures[key]) for key, form in forms]
            rows.append([check.subject, *cells, check.verdict])
    columns = ["text", "reference score", "file's score", "difference", "cosine of the state", "verdict"]
    return ["## Scores", "", *_table(columns, rows), ""] if rows else []


def _picture_table(checks: Sequence[Check]) -> list[str]:
    rows = []
    embedded = {check.subject: check for check in checks if check.kind == EMBEDDINGS}
    for check in checks:
        if check.kind != TILES:
            continue
        found = embedded[check.subject]
        low, mean = (found.figures.get(key) for key in ("cosine_min", "cosine_mean"))
        cosine = "-" if low is None or mean is None else f"{low:.6f} / {mean:.6f}"
        rows.append([check.subject, check.reading, check.verdict, cosine, found.verdict])
    columns = ["picture", "tiles", "verdict", "embeddings: cosine min / mean", "verdict"]
    return ["## Pictures", "", *_table(columns, rows), ""] if rows else []


def _legend(report: Report) -> list[str]:
    lines = [
        f"- Must hold: the same token ids; tiles with colours at most {LARGEST_LEVEL_DIFFERENCE} level apart; finite "
        f"numbers; for files of F32 tensors only, a cosine above {CLOSE} at every position.",
        "- Other types round the weights. For them the figures are reported, and the reading goes by the mean KL.",
        "- KL: what is lost, in nats, when the file's probabilities stand for the reference's. 0 is the same.",
        "- Same first choice: how often both would choose the same next token.",
        "- Both sides compute the reference's ids and embed the reference's tiles: a wrong id or tile shows once, "
        "where it is.",
        "- llama.cpp ran on the CPU with keys and values in F32 and without flash attention.",
    ]
    return lines + [f"- {note}" for note in report["notes"]]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns also line up as plain text."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _file(path: Path, kind: str) -> dict[str, Any]:
    return {"kind": kind, "name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        found = platform.processor()
    return found or platform.machine()
