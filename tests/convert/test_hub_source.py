"""Converting straight from the hub: the same file as from a folder, whatever the network does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from convert import hub_source
from convert.errors import BrokenCheckpoint, HubError
from convert.hf_to_gguf import convert, plan_conversion
from convert.hub_source import HubSource
from quant.stream import Progress
from tests.convert.hub_server import COMMIT, REPOSITORY, TOKEN, Trouble, hub
from tests.tiny_internlm import tiny_internlm2

WHERE = f"hf:{REPOSITORY}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_internlm2(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def trouble(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trouble]:
    monkeypatch.setattr(hub_source, "SMALL_READ", 600)
    monkeypatch.setattr(hub_source, "CHUNK_BYTES", 5000)
    monkeypatch.setattr(hub_source.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub(folder) as (endpoint, trouble):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        yield trouble


@pytest.fixture
def expected(folder: Path, tmp_path: Path) -> bytes:
    convert(folder, tmp_path / "expected.gguf", type="Q8_0", jobs=1)
    return (tmp_path / "expected.gguf").read_bytes()


@pytest.mark.parametrize(
    ("where", "problems"),
    [
        (WHERE, {}),
        (f"{WHERE}@v1", {}),
        (WHERE, {"drops": 9}),
        (WHERE, {"busy": 5}),
        (WHERE, {"busy": 3, "drops": 12}),
    ],
)
def test_same_file_as_from_a_folder(
    where: str, problems: dict[str, int], trouble: Trouble, expected: bytes, tmp_path: Path
) -> None:
    for name, count in problems.items():
        setattr(trouble, name, count)
    convert(where, tmp_path / "m.gguf", type="Q8_0", jobs=2)
    assert (tmp_path / "m.gguf").read_bytes() == expected
    assert trouble.busy == trouble.drops == 0
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors"] == []


def test_few_bytes_are_asked_for_twice(trouble: Trouble, folder: Path, tmp_path: Path) -> None:
    convert(WHERE, tmp_path / "m.gguf", jobs=1)
    chunks = [request for request in trouble.requests if request[0].endswith(".safetensors")]
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    asked = [tuple(map(int, span.removeprefix("bytes=").split("-"))) for _, span in chunks]
    assert sum(last - first + 1 for first, last in asked) < 1.2 * weights


def test_a_plan_reads_headers_only(trouble: Trouble, folder: Path, tmp_path: Path) -> None:
    plan = plan_conversion(WHERE, tmp_path / "m.gguf", jobs=1)
    assert plan.files[0].tensors[0].name == "token_embd.weight"
    requests = [span for file, span in trouble.requests if file.endswith(".safetensors")]
    assert len(requests) <= 4 and not list(tmp_path.glob("*.gguf"))


def test_a_run_that_lost_the_hub_continues(trouble: Trouble, expected: bytes, tmp_path: Path) -> None:
    def lose(progress: Progress) -> None:
        trouble.gone = progress.tensors_done >= 5

    with pytest.raises(HubError, match="503"):
        convert(WHERE, tmp_path / "m.gguf", type="Q8_0", jobs=1, progress=lose)
    assert not (tmp_path / "m.gguf").exists()
    trouble.gone = False
    seen: list[Progress] = []
    convert(WHERE, tmp_path / "m.gguf", type="Q8_0", jobs=1, progress=seen.append)
    assert seen[0].tensors_done >= 5 and (tmp_path / "m.gguf").read_bytes() == expected


def test_a_token_opens_a_private_repository(
    trouble: Trouble, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble.private = True
    with pytest.raises(HubError, match="or it is private"):
        convert(WHERE, tmp_path / "m.gguf")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    convert(WHERE, tmp_path / "m.gguf", type="Q8_0", jobs=1)
    assert (tmp_path / "m.gguf").read_bytes() == expected


def test_files_and_stamps(trouble: Trouble, folder: Path) -> None:
    source = HubSource(REPOSITORY)
    assert source.files() == sorted(path.name for path in folder.iterdir())
    assert source.size("config.json") == (folder / "config.json").stat().st_size
    assert source.size("original/other.safetensors") is None and source.size("nothing") is None
    assert COMMIT in source.stamp("config.json")
    data = (folder / "config.json").read_bytes()
    assert source.read("config.json", 10, 10**6) == data[10:] and source.read("config.json", len(data), 1) == b""
    source.close()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("hf:lab", "is not a repository"),
        ("hf:lab/nothing", "no model lab/nothing"),
        (f"{WHERE}@v9", "no revision 'v9'"),
    ],
)
def test_what_is_not_there(where: str, message: str, trouble: Trouble, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=message):
        convert(where, tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("problem", "error", "message"),
    [
        ({"deaf": True}, HubError, "answered 200"),
        ({"grown": 1}, BrokenCheckpoint, "where .* was asked for"),
        ({"gone": True}, HubError, "failed 8 times"),
    ],
)
def test_a_hub_that_misbehaves(
    problem: dict[str, int], error: type[Exception], message: str, trouble: Trouble, tmp_path: Path
) -> None:
    for name, value in problem.items():
        setattr(trouble, name, value)
    with pytest.raises(error, match=message):
        convert(WHERE, tmp_path / "m.gguf")
    assert not list(tmp_path.glob("*.gguf"))


def test_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="could not be asked"):
        convert(WHERE, tmp_path / "m.gguf")
