"""Templates that would take for ever or fill the memory end at an error."""

from __future__ import annotations

import pytest

from interns1_local.chat import template_limits
from interns1_local.chat.template import ChatTemplate
from interns1_local.errors import BadRequest

DOUBLED = "{% set ns = namespace(x='abcdefghij') %}{% for i in range(60) %}{% set ns.x = DOUBLE %}{% endfor %}"
NUMBERS = "{% set l = range(1000) | list %}"
LARGE = "{% set s = 'abcdefghij' * 99999 %}"

HOSTILE = {
    "added": DOUBLED.replace("DOUBLE", "ns.x + ns.x"),
    "tilde": DOUBLED.replace("DOUBLE", "ns.x ~ ns.x"),
    "filter join": DOUBLED.replace("DOUBLE", "[ns.x, ns.x] | join"),
    "filter join with": DOUBLED.replace("DOUBLE", "[1, 2, 3] | join(ns.x)"),
    "method join": DOUBLED.replace("DOUBLE", "ns.x.join(['a', 'b', 'c'])"),
    "filter replace": DOUBLED.replace("DOUBLE", "ns.x | replace('a', ns.x)"),
    "method replace": DOUBLED.replace("DOUBLE", "ns.x.replace('a', ns.x)"),
    "list": DOUBLED.replace("'abcdefghij'", "[1]").replace("DOUBLE", "ns.x + ns.x"),
    "block": "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
    "macro": "{% macro m(n, x) %}{{ m(n - 1, x ~ x) if n else x }}{% endmacro %}{{ m(60, 'ab') }}",
    "center": "{{ 'a'.center(99999999999) }}",
    "zfill": "{{ 'a'.zfill(99999999999) }}",
    "filter center": "{{ 'a' | center(width=99999999999) }}",
    "indent": LARGE + "{{ s | indent(99999999) }}",
    "loops": NUMBERS + "{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}",
    "recursive loop": NUMBERS + "{% for a in l recursive %}{{ loop(l) if loop.depth < 9 }}{% endfor %}",
    "macros": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_hostile(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.5)
    with pytest.raises(BadRequest, match="template"):
        ChatTemplate(source).render([])


def test_what_templates_do_is_as_before() -> None:
    source = (
        "{% macro twice(x) %}{{ x ~ x }}{% endmacro %}{% set y %}{{ twice('a') }}{% endset %}"
        "{{ y ~ 1 ~ none ~ missing }}"
        "{{ ['a', 'b'] | join(', ') }}{{ 'aXb'.replace('X', '-') }}{{ 'a' + 'b' }}{{ 1 + 2 }}{{ [1] + [2] }}"
        "{{ 'x'.rjust(3) }}{{ {'a': 1}.items() | list }}{{ '-'.join(['p', 'q']) }}"
        "{% for k in 'ab' %}{{ loop.last }}{% endfor %}"
    )
    expected = "aa1Nonea, ba-bab3[1, 2]  x[('a', 1)]p-qFalseTrue"
    assert ChatTemplate(source).render([]) == [expected]
