"""The report of a measurement: its table, its JSON, and a plot that any XML reader accepts."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from quant.metrics import Estimate, Metrics
from quant.quality_plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from quant.report import MeasuredModel, QualityReport, printable

SVG = "{http://www.w3.org/2000/svg}"
METRICS = Metrics(
    n_tokens=510,
    base_perplexity=Estimate(6.25, 0.25),
    perplexity=Estimate(6.5, 0.26),
    log_perplexity_ratio=Estimate(0.039, 0.004),
    kl=Estimate(0.0125, 0.0011),
    kl_median=0.006,
    kl_90=0.03,
    kl_99=0.11,
    kl_99_9=0.4,
    kl_max=0.9,
    delta_p=Estimate(-0.002, 0.001),
    delta_p_rms=Estimate(0.031, 0.002),
    top1_agreement=Estimate(0.957, 0.009),
)


def report(*models: tuple[str, int, float]) -> QualityReport:
    """A report on models of (name, bytes, mean KL)."""
    measured = (MeasuredModel(name, size, replace(METRICS, kl=Estimate(kl, 0.001))) for name, size, kl in models)
    return QualityReport("models/F16.gguf", 16_400_000_000, 512, 2, tuple(measured))


THREE = report(("q8.gguf", 8_700_000_000, 0.0004), ("q4.gguf", 5_030_000_000, 0.02), ("q2.gguf", 3_280_000_000, 0.4))


def elements(svg: str, name: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg.encode()).iter(f"{SVG}{name}"))


def dots(svg: str) -> dict[str, tuple[float, float]]:
    """Tooltip up to its colon -> the middle of the dot."""
    found = {}
    for circle in elements(svg, "circle"):
        title = circle.findtext(f"{SVG}title") or ""
        found[title.partition(":")[0]] = float(circle.get("cx", "nan")), float(circle.get("cy", "nan"))
    return found


def labels(svg: str) -> list[ElementTree.Element]:
    return [text for text in elements(svg, "text") if text.get("class") == "label"]


def test_table() -> None:
    header, base, q8, q4, _q2, note = THREE.to_text().splitlines()
    assert header.split() == "MODEL SIZE PERPLEXITY MEAN KL 99% KL RMS ΔP SAME TOP TOKEN".split()
    assert base.split() == "models/F16.gguf 16,400.0 MB 6.2500 ± 0.2500 - - - -".split()
    assert q4.split() == (
        "q4.gguf 5,030.0 MB 6.5000 ± 0.2600 0.020000 ± 0.001000 0.110000 3.10 ± 0.20 % 95.70 ± 0.90 %".split()
    )
    assert len(header) == len(base) == len(q8) == len(q4)
    assert note.startswith("510 tokens scored, the second halves of 2 chunks of 512;")


def test_wide_names_keep_the_columns_straight() -> None:
    lines = report(("书生.gguf", 10**9, 0.1), ("ab.gguf", 10**9, 0.1)).to_text().splitlines()
    assert lines[2].index("1,000.0 MB") == lines[3].index("1,000.0 MB") - 2  # two wide letters: two columns more


def test_json() -> None:
    value = json.loads(json.dumps(THREE.to_json(), allow_nan=False))
    assert value["base"] == {
        "model": "models/F16.gguf",
        "bytes": 16_400_000_000,
        "perplexity": {"value": 6.25, "error": 0.25},
    }
    assert (value["chunk_tokens"], value["chunks"]) == (512, 2)
    assert [model["model"] for model in value["models"]] == ["q8.gguf", "q4.gguf", "q2.gguf"]
    assert value["models"][1] == {
        "model": "q4.gguf",
        "bytes": 5_030_000_000,
        "scored_tokens": 510,
        "perplexity": {"value": 6.5, "error": 0.26},
        "log_perplexity_ratio": {"value": 0.039, "error": 0.004},
        "kl": {"mean": 0.02, "error": 0.001, "median": 0.006, "90": 0.03, "99": 0.11, "99_9": 0.4, "max": 0.9},
        "delta_p": {"value": -0.002, "error": 0.001},
        "delta_p_rms": {"value": 0.031, "error": 0.002},
        "top1_agreement": {"value": 0.957, "error": 0.009},
    }


def test_an_infinity_is_null_in_json() -> None:
    metrics = replace(METRICS, perplexity=Estimate(math.inf, math.inf))
    value = QualityReport("a", 1, 512, 1, (MeasuredModel("b", 1, metrics),)).to_json()
    assert json.loads(json.dumps(value, allow_nan=False))["models"][0]["perplexity"] == {"value": None, "error": None}


def test_plot_holds_every_point_in_its_place() -> None:
    svg = THREE.to_svg()
    places = dots(svg)
    assert list(places) == ["q2.gguf", "q4.gguf", "q8.gguf"]
    (x2, y2), (x4, y4), (x8, y8) = places.values()
    assert LEFT < x2 < x4 < x8 < WIDTH - RIGHT
    assert TOP < y2 < y4 < y8 < HEIGHT - BOTTOM
    # Sizes from zero on; as far apart as their logarithms are.
    assert (x4 - LEFT) / (x8 - LEFT) == pytest.approx(5.03 / 8.7, abs=0.002)
    assert (y8 - y4) / (y4 - y2) == pytest.approx(math.log(0.02 / 0.0004) / math.log(0.4 / 0.02), abs=0.01)
    assert sorted(text.text or "" for text in labels(svg)) == ["q2.gguf", "q4.gguf", "q8.gguf"]


def test_no_distance_is_drawn_below_the_scale() -> None:
    svg = report(("same.gguf", 10**9, 0.0), ("rounded.gguf", 2 * 10**9, -1e-18), ("q4.gguf", 10**8, 0.02)).to_svg()
    places = dots(svg)
    assert places["same.gguf"][1] == places["rounded.gguf"][1] == HEIGHT - BOTTOM > places["q4.gguf"][1]
    assert "0" in [text.text for text in elements(svg, "text") if text.get("text-anchor") == "end"]


@pytest.mark.parametrize("models", [[], [("one.gguf", 0, 1.0)], [("a", 7, 0.0)], [("a", 10**12, 1e-9), ("b", 1, 3e4)]])
def test_plots_of_little_and_of_much(models: list[tuple[str, int, float]]) -> None:
    svg = report(*models).to_svg()
    assert len(dots(svg)) == len(models)
    for x, y in dots(svg).values():
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= HEIGHT - BOTTOM


def test_labels_of_near_points_do_not_cover_each_other() -> None:
    svg = report(*((f"model-number-{i}.gguf", 10**9 + i, 0.02 + i * 1e-5) for i in range(6))).to_svg()
    heights = sorted(float(text.get("y", "nan")) for text in labels(svg))
    assert all(below - above >= 14.9 for above, below in pairwise(heights))


def test_labels_are_file_names_where_these_tell_the_models_apart() -> None:
    svg = report(("a/q4.gguf", 1, 0.1), ("b/q4.gguf", 2, 0.2), ("b/q8.gguf", 3, 0.3)).to_svg()
    assert sorted(text.text or "" for text in labels(svg)) == ["a/q4.gguf", "b/q4.gguf", "q8.gguf"]


@pytest.mark.parametrize(
    "name",
    [
        '</text><script>alert("1")</script>&amp;.gguf',
        "red\x1b[31m\x00\n.gguf",
        "\u202efugg.gguf",
        os.fsdecode(b"not-utf8-\xff.gguf"),
        "]]>'\"<!--.gguf",
        "\ufffe\U0001f600.gguf",
    ],
)
def test_hostile_names(name: str) -> None:
    made = report((name, 10**9, 0.1))
    svg = replace(made, base=name).to_svg()
    root = ElementTree.fromstring(svg.encode())
    assert not list(root.iter(f"{SVG}script"))
    # A name that looks like a path is shown by its last part.
    assert [text.text for text in labels(svg)] == [printable(name.rpartition("/")[2])]
    assert printable(name) in (elements(svg, "circle")[0].findtext(f"{SVG}title") or "")
    text = made.to_text()
    assert text.encode() and len(text.splitlines()) == 4 and "\x1b" not in text
    assert json.loads(json.dumps(made.to_json()))["models"][0]["model"] == name


def test_printable_leaves_good_names_alone() -> None:
    assert printable("Intern-S1 (Q4_K_M) 书生.gguf") == "Intern-S1 (Q4_K_M) 书生.gguf"
    assert printable("a\x1bb\tc") == r"a\x1bb\tc"
