"""Go templates: what is one, the prompts of its twin (by hand, from what Ollama does), and what has no twin."""

from __future__ import annotations

import time

import pytest

from interns1_local.chat.go_template import is_go_template, jinja_twin, not_understood
from interns1_local.chat.message import Image, Message, Text
from interns1_local.chat.template import ChatTemplate, MediaRef, ends_in_think

CHATML_TURNS = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
)
CHATML_MESSAGES = """{{- range $i, $_ := .Messages }}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if (or (eq .Role "assistant") (eq .Role "system")) }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}
{{- end -}}
<|im_start|>assistant
{{/* the answer stands here */ -}}
"""
LLAMA2 = (
    "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}{{ .Prompt }} [/INST] "
    "{{- if .Response }} {{ .Response }}</s>{{ end }}"
)
ALPACA = """
{{- if .System }}
{{ .System }}
{{- end }}

### Instruction:
{{ .Prompt }}

### Response:
{{ .Response }}

"""
BOTH = (
    "{{ if .Messages }}{{ if $.System }}<s>{{ .System }}</s>{{ end }}{{ range .Messages }}"
    '{{ if ne .Role "system" }}[{{ .Role }}:{{ .Content }}]{{ end }}{{ end }}>{{ else }}{{ .Prompt }}{{ end }}'
    "{{ .Response }}{{ if .Response }}<end>{{ end }}"
)
FILL = "{{ if .Suffix }}<fim>{{ .Suffix }}{{ else }}{{ .System }}|{{ .Prompt }}{{ end }}"

S, U, A = "system", "user", "assistant"
ONE = ((U, "Hi"),)
TWO = ((S, "Be."), (U, "Hi"), (A, "Yes"), (U, "So?"))
MERGED = ((U, "a"), (U, "b"))
CONTINUED = ((U, "Hi"), (A, "Well"))
LATE_SYSTEM = ((U, "Hi"), (S, "Be."), (U, "So?"))

PROMPTS = [
    (CHATML_TURNS, ONE, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
    (
        CHATML_TURNS,
        TWO,
        "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
        "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (CHATML_TURNS, MERGED, "<|im_start|>user\na\n\nb<|im_end|>\n<|im_start|>assistant\n"),
    (CHATML_TURNS, CONTINUED, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWell"),
    # A system message ends the turn before it.
    (
        CHATML_TURNS,
        LATE_SYSTEM,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (CHATML_MESSAGES, ONE, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
    (
        CHATML_MESSAGES,
        TWO,
        "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
        "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n",
    ),
    (CHATML_MESSAGES, MERGED, "<|im_start|>user\na\n\nb<|im_end|>\n<|im_start|>assistant\n"),
    (CHATML_MESSAGES, CONTINUED, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWell"),
    # The mark before `if` takes the space after [/INST]; a condition on the response is not its place.
    (LLAMA2, ONE, "[INST] Hi [/INST]"),
    (LLAMA2, TWO, "[INST] <<SYS>>\nBe.\n<</SYS>>\n\nHi [/INST] Yes</s>[INST] So? [/INST]"),
    (ALPACA, ONE, "\n\n### Instruction:\nHi\n\n### Response:\n"),
    (
        ALPACA,
        TWO,
        "\nBe.\n\n### Instruction:\nHi\n\n### Response:\nYes\n\n\n\n### Instruction:\nSo?\n\n### Response:\n",
    ),
    ("{{ .Prompt }}", ONE, "Hi"),
    # Without a place for the answer, it goes to the end. System text that the template does not ask for is gone.
    ("{{ .Prompt }}", TWO, "HiYesSo?"),
    ("{{ .Prompt }}", CONTINUED, "HiWell"),
    (BOTH, ONE, "[user:Hi]>"),
    (BOTH, ((S, "A"), *TWO, (S, "B")), "<s>A\n\nBe.\n\nB</s>[user:Hi][assistant:Yes][user:So?]>"),
    (FILL, ONE, "|Hi"),
    ("{{ .Suffix }}{{ .Prompt }}", ONE, "<no value>Hi"),
    ('{{ if and .System (not (eq .Prompt "a" "b")) }}1{{ else }}2{{ end }}', ((S, "x"), (U, "c")), "1"),
    ('{{ if and .System (not (eq .Prompt "a" "b")) }}1{{ else }}2{{ end }}', ((S, "x"), (U, "b")), "2"),
    ('{{ "a\\t\\"" }}{{ `{{ .X }}` }}{{ .Prompt }}', ONE, 'a\t"{{ .X }}Hi'),
    ("  {{- .Prompt -}}  {{ .Prompt }} ", ONE, "HiHi "),
    ("plain", ONE, "plain"),
]


def rendered(template: str, conversation: tuple[tuple[str, str], ...]) -> str:
    twin = jinja_twin(template)
    assert twin is not None, not_understood(template)
    parts = ChatTemplate(twin).render([Message(role, (Text(text),)) for role, text in conversation])
    return "".join(part for part in parts if isinstance(part, str))


@pytest.mark.parametrize(("template", "conversation", "prompt"), PROMPTS)
def test_prompts(template: str, conversation: tuple[tuple[str, str], ...], prompt: str) -> None:
    assert is_go_template(template)
    assert rendered(template, conversation) == prompt
    assert not_understood(template) is None


def test_a_turn_is_closed_where_no_answer_is_asked_for() -> None:
    template = ChatTemplate(jinja_twin(CHATML_TURNS) or "")
    parts = template.render([Message(U, (Text("Hi"),)), Message(A, (Text("Yes"),))], add_generation_prompt=False)
    assert parts == ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"]


def test_results_of_tools_stay_apart() -> None:
    template = "{{ range .Messages }}[{{ .Role }}:{{ .Content }}]{{ end }}"
    assert rendered(template, (("tool", "1"), ("tool", "2"), (U, "a"))) == "[tool:1][tool:2][user:a]"


def test_what_users_write_is_no_template() -> None:
    text = "{{ .System }} {% for x in y %} {# #} '\\ \n <|image_pad|>"
    assert rendered("{{ .Prompt }}", ((U, text),)) == text


@pytest.mark.parametrize(
    "text",
    [
        "{% raw %}", "{%- for m in messages %}", "{# a", "}} %} #}", "'", '"', "\\", "\\n\\x41",
        "a\r\n\tb\x00\x85\u2028",
        "<|image_pad|><image><video><img><IMG_CONTEXT></img>", "<think></think>", "é 中 🧪", "' ~ messages ~ '",
    ],
)  # fmt: skip
def test_literal_text_stays_what_it_is(text: str) -> None:
    assert rendered(f"{text}{{{{ .Prompt }}}}{text}", ONE) == f"{text}Hi{text}"
    assert rendered(f"{{{{ range .Messages }}}}{text}{{{{ .Content }}}}{{{{ end }}}}{text}", ONE) == f"{text}Hi{text}"


def test_pictures_stand_in_their_message_and_a_thought_is_seen() -> None:
    template = ChatTemplate(jinja_twin("<image>{{ .Prompt }}<think></think><think>\n{{ .Response }}") or "")
    parts = template.render([Message(U, (Image(b""), Text("Hi")))])
    assert parts == ["<image>", MediaRef(0), "\nHi<think></think><think>\n"]
    assert ends_in_think(parts)
    assert template.supports_thinking


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ .System }}\n{{ range .Messages }}\n{{ if .ToolCalls }}x{{ end }}{{ end }}", '".ToolCalls" (line 3)'),
        ("{{ if or .System .Tools }}x{{ end }}", '".Tools" (line 1)'),
        ("a\n\n{{- $last := eq (len (slice .Messages 1)) 1 }}", '"$last" (line 3)'),
        ("{{ if eq (len (slice .Messages 1)) 1 }}x{{ end }}", '"len" (line 1)'),
        ("{{ range .Messages }}{{ .Thinking }}{{ end }}", '".Thinking" (line 1)'),
        ("{{ range .Messages }}{{ .System }}{{ end }}", '".System" (line 1)'),
        ("{{ range .Messages }}{{ range .Messages }}{{ end }}{{ end }}", '"range .Messages" (line 1)'),
        ("{{ range .Messages }}x{{ else }}y{{ end }}", '"else" (line 1)'),
        ("{{ range $x := .Tools }}{{ end }}", '"range .Tools" (line 1)'),
        ("{{ json .Tools }}", '"json" (line 1)'),
        ("{{ .Prompt | json }}", '"|" (line 1)'),
        ("{{ currentDate }}", '"currentDate" (line 1)'),
        ("{{ with .System }}x{{ end }}", '"with" (line 1)'),
        ('{{ template "x" }}', '"template" (line 1)'),
        ("{{ . }}", '"." (line 1)'),
        ("{{ .Prompt.__class__ }}", '".Prompt.__class__" (line 1)'),
        ("{{ if }}x{{ end }}", '"if" with 0 values (line 1)'),
        ("{{ if .System .Prompt }}x{{ end }}", '"if" with 2 values (line 1)'),
        ("{{ if (.System }}x{{ end }}", '"(" (line 1)'),
        ("{{ if .System) }}x{{ end }}", '")" (line 1)'),
        ("{{ if .System }}x", "a block without its end (line 1)"),
        ("{{ end }}", '"end" (line 1)'),
        ("x\n{{ .Prompt", "an action that is not closed (line 2)"),
        ("{{ .Prompt }\n}", '"}" (line 1)'),
        ("{{ .Prompt }}{{ }}", "an empty action (line 1)"),
        ('{{ .Prompt }}{{ "\\x41" }}', '"\\"\\\\x41\\"" (line 1)'),
        ('{{ .Prompt }}{{ "\\ud800" }}', '"\\"\\\\ud800\\"" (line 1)'),
        ("{{ .Prompt }}\n\ud800", "half a character (line 2)"),
        ("{{ .Prompt }}" + "x" * 100_000, "more than 100000 characters (line 1)"),
        ("{{ .Prompt }}" * 2001, "more than 2000 actions (line 1)"),
        ("{{ if .Prompt }}" * 5000, "more than 2000 actions (line 1)"),
        ("{{ if .Prompt }}" * 40, "more than 32 blocks in one another (line 1)"),
        ("{{ if " + "(" * 40_000 + " }}", '"(" (line 1)'),
        ("{{ if and " + ".Prompt " * 9000 + " }}", '"and" with 9000 values (line 1)'),
        ("{{/*" * 20_000, '"/" (line 1)'),
        ("{{ .Prompt }}{{" + " " * 90_000, "an action that is not closed (line 1)"),
    ],
)
def test_what_is_not_understood_is_named(template: str, reason: str) -> None:
    started = time.monotonic()
    assert jinja_twin(template) is None
    assert not_understood(template) == reason
    assert is_go_template(template)
    assert time.monotonic() - started < 2


def test_the_largest_templates_compile() -> None:
    deep = "{{ if .Prompt }}" * 32 + "{{ .Prompt }}" + "{{ end }}" * 32
    assert rendered(deep, ONE) == "Hi"
    assert rendered("{{ .Prompt }}" * 2000, ONE) == "Hi" * 2000
    nested = "{{ if " + "(not " * 30 + ".Prompt" + ")" * 30 + " }}even{{ end }}"
    assert rendered(nested, ONE) == "even"
    chain = "{{ if .System }}" + "".join(f'{{{{ else if eq .Prompt "{n}" }}}}{n}' for n in range(1500)) + "{{ end }}"
    assert rendered(chain, ((U, "1499"),)) == "1499"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{{ bos_token }}{{ messages[0].content }}",
        "{{- 'x' }}",
        "{{ range(3) | list }}",
        "{% if x %}{{ end_token }}{{ 'a' if b else 'c' }}{% endif %}",
        "{% if",
    ],
)
def test_jinja_is_not_taken_for_go(template: str) -> None:
    assert not is_go_template(template)


@pytest.mark.parametrize("template", ["{{ .System }}{% raw %}", "{{- if .Prompt }}{% x %}{{ $a }}{{ end }}"])
def test_go_with_marks_of_jinja_in_its_text(template: str) -> None:
    assert is_go_template(template)
