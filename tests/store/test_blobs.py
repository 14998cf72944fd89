"""Blobs: whole or not at all, and never outside their folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from interns1_local.errors import BadRequest, NotFound
from interns1_local.store.blobs import BlobStore, write_atomically

HEX = "ab" * 32


@pytest.mark.parametrize(
    "digest",
    ["", "sha256", "sha256:", f"sha256:{HEX[:-1]}", f"sha256:{HEX}0", f"sha256:../../{HEX}", f"md5:{HEX}",
     f"sha256:{HEX}\n", f"sha256:{HEX[:-1]}/", f"../sha256:{HEX}", f"sha256:{HEX[:-1]}g"],
)  # fmt: skip
def test_only_digests_are_paths(tmp_path: Path, digest: str) -> None:
    with pytest.raises(BadRequest, match="invalid digest format"):
        BlobStore(tmp_path).path(digest)


def test_both_spellings_and_cases_are_one_blob(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    assert blobs.path(f"sha256:{HEX}") == blobs.path(f"sha256-{HEX.upper()}") == tmp_path / f"sha256-{HEX}"


def test_add_and_read(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    digest, size = blobs.add([b"ab", b"c"])
    assert (digest, size) == ("sha256:" + hashlib.sha256(b"abc").hexdigest(), 3)
    assert blobs.read(digest) == b"abc"
    assert blobs.digests() == [digest]
    assert blobs.path(digest).stat().st_mode & 0o777 == 0o644
    blobs.remove(digest)
    with pytest.raises(NotFound, match="missing from the store"):
        blobs.read(digest)


def test_mismatch_leaves_nothing(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    got = "sha256:" + hashlib.sha256(b"x").hexdigest()
    with pytest.raises(BadRequest) as caught:
        blobs.add(b"x", expected=f"sha256:{HEX}")
    assert str(caught.value) == f'digest mismatch, expected "sha256:{HEX}", got "{got}"'
    assert list((tmp_path / "blobs").iterdir()) == []


def test_a_failing_source_leaves_nothing(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield b"some"
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        BlobStore(tmp_path / "blobs").add(broken())
    assert list((tmp_path / "blobs").iterdir()) == []


def test_files_are_copied_or_adopted(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    source = tmp_path / "文件.gguf"
    source.write_bytes(b"one")
    digest, _ = blobs.add_file(source)
    source.write_bytes(b"two")
    assert blobs.read(digest) == b"one"
    adopted, size = blobs.adopt(source)
    assert blobs.read(adopted) == b"two"
    assert size == 3
    assert not source.exists()


def test_small_files_are_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    write_atomically(target, b"one")
    write_atomically(target, b"two")
    assert target.read_bytes() == b"two"
    assert [path.name for path in target.parent.iterdir()] == ["b"]
