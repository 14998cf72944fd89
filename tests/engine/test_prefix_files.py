"""Files of prefixes: found by their beginning, checked before they are used, never more than they may be."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from interns1_local.engine.prefix_files import PrefixFiles

PRINT = bytes(range(32))


def keys(*values: int, then: int = 0) -> np.ndarray:
    return np.array([*values, *range(100, 100 + then)], np.int64)


def data(n: int, value: int = 7) -> np.ndarray:
    return np.full(n, value, np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> PrefixFiles:
    return PrefixFiles(tmp_path / "prefixes", PRINT, 100_000)


def only_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "prefixes").iterdir()
    return path


def test_what_is_written_is_found_by_its_beginning_also_by_another(files: PrefixFiles, tmp_path: Path) -> None:
    picture = -(2**63) + 5
    assert files.write(keys(1, 2, picture, then=20), data(500))
    assert files.write(keys(1, 2, 9), data(400, 8))
    other = PrefixFiles(tmp_path / "prefixes", PRINT, 100_000)
    for subject in (files, other):
        entry, length = subject.longest(keys(1, 2, picture, 100, 101, 55))
        assert entry is not None and length == 5 and len(entry.keys) == 23
        assert np.array_equal(subject.read(entry), data(500))
        assert subject.longest(keys(4))[1] == 0
    # Written by one, seen by the other.
    assert other.write(keys(4, 5), data(3))
    assert files.longest(keys(4, 5, 6))[1] == 2


def test_files_are_private(files: PrefixFiles, tmp_path: Path) -> None:
    files.write(keys(1, 2), data(10))
    assert stat.S_IMODE((tmp_path / "prefixes").stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(tmp_path).stat().st_mode) == 0o600


def test_longer_ones_take_the_place_of_shorter_ones(files: PrefixFiles, tmp_path: Path) -> None:
    assert files.write(keys(1, 2), data(10))
    assert files.write(keys(1, 2, 3), data(15))
    assert not files.write(keys(1, 2), data(10))
    assert only_file(tmp_path).stat().st_size > 15
    assert files.longest(keys(1, 2))[1] == 2


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path / "prefixes", PRINT, 3 * 1200)
    for first in range(3):
        files.write(keys(first), data(1000))
        for path in (tmp_path / "prefixes").iterdir():
            os.utime(path, ns=(path.stat().st_mtime_ns - 10**9,) * 2)
    assert files.holds(keys(0))
    files.write(keys(3), data(1000))
    assert [files.longest(keys(first))[1] for first in range(4)] == [1, 0, 1, 1]
    assert not files.write(keys(5), data(5000))
    assert sum(path.stat().st_size for path in (tmp_path / "prefixes").iterdir()) <= 3 * 1200


def test_what_another_model_wrote_is_not_seen(files: PrefixFiles, tmp_path: Path) -> None:
    files.write(keys(1, 2), data(10))
    stranger = PrefixFiles(tmp_path / "prefixes", bytes(32), 100_000)
    assert stranger.longest(keys(1, 2)) == (None, 0)
    # Not even under a name that looks like its own.
    path = only_file(tmp_path)
    path.rename(path.with_name(f"{bytes(32).hex()[:16]}-{'0' * 32}.kv"))
    assert stranger.longest(keys(1, 2)) == (None, 0)


def flip(place: int) -> Callable[[bytes], bytes]:
    return lambda content: (
        content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        if place >= 0
        else (content[:place] + bytes([content[place] ^ 1]) + content[len(content) + place + 1 :])
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: b"",
        lambda content: content[:40],
        flip(0), flip(20), flip(41), flip(50), flip(60), flip(100), flip(125), flip(-1), flip(-500),
        lambda content: content[:40] + b"\xff" * 16 + content[56:],
    ],
)  # fmt: skip
@pytest.mark.parametrize("known", [True, False], ids=["before", "after"])
def test_a_damaged_file_is_as_good_as_none(
    files: PrefixFiles, tmp_path: Path, damage: Callable[[bytes], bytes], known: bool
) -> None:
    files.write(keys(1, 2, 3), data(1000))
    path = only_file(tmp_path)
    if not known:
        files = PrefixFiles(tmp_path / "prefixes", PRINT, 100_000)
    entry, _ = files.longest(keys(1, 2, 3)) if known else (None, 0)
    path.write_bytes(damage(path.read_bytes()))
    if entry is None:
        entry, _ = files.longest(keys(1, 2, 3))
    assert entry is None or files.read(entry) is None
    assert files.longest(keys(1, 2, 3))[0] is None or not known
    assert files.write(keys(1, 2, 3), data(1000))
    found, length = files.longest(keys(1, 2, 3))
    assert found is not None and length == 3 and files.read(found) is not None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes of files are POSIX's")
def test_links_and_files_that_others_may_write_are_not_read(files: PrefixFiles, tmp_path: Path) -> None:
    files.write(keys(1, 2), data(10))
    path = only_file(tmp_path)
    path.chmod(0o666)
    assert PrefixFiles(tmp_path / "prefixes", PRINT, 1000).longest(keys(1, 2))[0] is None
    path.chmod(0o600)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert PrefixFiles(tmp_path / "prefixes", PRINT, 1000).longest(keys(1, 2))[0] is None


def test_a_folder_that_is_gone_costs_nothing_but_speed(files: PrefixFiles, tmp_path: Path) -> None:
    files.write(keys(1, 2), data(10))
    entry, _ = files.longest(keys(1, 2))
    only_file(tmp_path).unlink()
    (tmp_path / "prefixes").rmdir()
    assert entry is not None and files.read(entry) is None
    assert files.longest(keys(1, 2)) == (None, 0)
    assert not files.write(keys(1, 2), data(10))
