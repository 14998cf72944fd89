"""The page for everyone: by keyboard, on a phone, in the dark, in Chinese, light to load, with a key, while loading."""

from __future__ import annotations

from typing import Any

from interns1_local.store.model_store import ModelStore
from tests.server.conftest import live, make_app
from tests.server.fake_runner import FakeBackend
from tests.web.conftest import Open, ask, rest, see, until

MAX_FIRST_LOAD = 100_000
LONG = (
    "x</think>`"
    + "long_name_" * 30
    + "`\n\n```\n"
    + "code " * 60
    + "\n```\n\n|"
    + " column |" * 20
    + "\n|"
    + "---|" * 20
)
MOLECULE = "\n\nCC(=O)OC1=CC=CC=C1C(=O)O"


def test_the_first_load_is_light(open_page: Open) -> None:
    page = open_page(ready=False)
    sizes: list[int] = []
    page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", "0"))))
    page.asked.clear()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.wait_for_load_state("networkidle")
    assert len(sizes) > 10 and sum(sizes) < MAX_FIRST_LOAD
    assert not any("vendor" in url for url in page.asked)


NAMELESS = """[...document.querySelectorAll('button, a, input, select, textarea, summary')]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.[0]?.textContent.trim()))
  .map((one) => one.outerHTML)"""


def test_the_keyboard_is_enough(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    press = page.keyboard.press
    focused = "document.activeElement.id || document.activeElement.className"
    assert page.evaluate("document.activeElement.id") in ("draft", "model")
    page.locator(".skip").focus()
    press("Enter")
    assert page.evaluate(focused) == "draft"
    page.evaluate("document.activeElement.blur()")
    press("/")
    assert page.evaluate(focused) == "draft"
    for answer in ("one", "two", "three"):
        backend.enqueue(f"x</think>{answer}")
    page.keyboard.type("First")
    press("Shift+Enter")
    page.keyboard.type("line")
    press("Enter")
    see(page, "one")
    rest(page)
    assert "First\nline<|im_end|>" in backend.last_text
    press("Alt+r")
    see(page, "two")
    rest(page)
    page.locator("#draft").focus()
    press("ArrowUp")
    page.keyboard.type("!")
    press("Enter")
    see(page, "three")
    rest(page)
    press("Alt+s")
    until(page, "document.activeElement.closest('#settings') !== null")
    press("Escape")
    until(page, "document.activeElement.id === 'open-settings'")
    was = page.locator("#think").is_checked()
    press("Alt+t")
    assert page.locator("#think").is_checked() is not was
    press("?")
    see(page, "Settings", "dialog")
    press("Escape")
    press("Alt+n")
    page.wait_for_selector(".welcome")
    press("Alt+l")
    press("Enter")
    see(page, "three")
    # Every control has a name, and the focus is seen.
    assert page.evaluate(NAMELESS) == []
    page.locator("#new-chat").focus()
    press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_what_a_screen_reader_is_told(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    backend.enqueue("x</think>Half ", "<hang>")
    ask(page, "Go")
    see(page, "The model is answering", "#status")
    assert page.locator(".message.assistant").get_attribute("aria-busy") == "true"
    page.get_by_role("button", name="Stop").click()
    see(page, "Stopped", "#status")
    backend.enqueue("x</think>All of it.")
    ask(page, "More")
    see(page, "Answer: All of it.", "#status")
    assert page.get_by_role("log").get_attribute("aria-live") == "off"
    assert page.get_by_role("article", name="Model").count() == 2


def test_a_phone(open_page: Open, backend: FakeBackend) -> None:
    page = open_page(viewport={"width": 360, "height": 700}, has_touch=True, is_mobile=True)
    backend.enqueue(LONG, MOLECULE)
    ask(page, "Show me everything")
    page.locator(".molecule").wait_for()
    rest(page)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= 360
    for element in page.locator("header button:visible, #composer button:visible, .molecule").all():
        box = element.bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 361
    assert not page.locator("#new-chat").is_visible()
    page.locator("#show-sidebar").tap()
    page.locator("#new-chat").wait_for()
    page.wait_for_timeout(250)
    page.locator("#new-chat").tap()
    page.wait_for_selector(".welcome")
    page.keyboard.press("Alt+l")
    page.locator("#shade").tap(position={"x": 350, "y": 350})
    page.wait_for_selector("body:not(.sidebar-open)")
    page.locator("#open-settings").tap()
    page.locator("#set-temperature").fill("0.5")
    assert page.evaluate(wide) <= 360


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
    return 'white';
  };
  const poor = [];
  for (const element of document.querySelectorAll('body *')) {
    const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const seen = element.checkVisibility({ opacityProperty: true });
    if (!words || !seen || element.closest('option, :disabled, .visually-hidden')) continue;
    const [one, other] = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (other + 0.05);
    if (contrast < 4.5) poor.push(`${contrast.toFixed(2)} ${element.outerHTML.slice(0, 120)}`);
  }
  return poor;
}"""


def test_dark_and_light_can_be_read(open_page: Open, backend: FakeBackend) -> None:
    page = open_page(color_scheme="dark")
    backend.enqueue(
        "x</think>**Bold** [link](http://x.test) `code` <SMILES>CCO</SMILES>",
        "\n\n" + "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ",
    )
    ask(page, "Show")
    page.locator(".sequence").wait_for()
    ground = "getComputedStyle(document.body).backgroundColor"
    grounds = []
    for _ in range(3):
        grounds.append(page.evaluate(ground))
        assert page.evaluate(CONTRAST) == [], grounds
        page.locator("#theme").click()
    # As the system has it, light, dark.
    assert grounds[0] == grounds[2] != grounds[1]
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate(ground) == grounds[0]


LABELS = """[...document.querySelectorAll('[aria-label], [placeholder]')]
  .flatMap((one) => [one.ariaLabel, one.placeholder])"""


def test_chinese(open_page: Open, backend: FakeBackend) -> None:
    page = open_page(locale="zh-CN")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    backend.enqueue("想</think>你好")
    ask(page, "问题")
    see(page, "你好")
    assert "思考了" in page.locator(".thought summary").inner_text()
    english = [text for text in page.evaluate(LABELS) if text and not any("\u4e00" <= one <= "\u9fff" for one in text)]
    assert set(english) <= {"English"}
    page.locator("#language").click()
    page.locator("html[lang=en]").wait_for()
    page.wait_for_selector("html[data-ready]")
    see(page, "New conversation", "#sidebar")


def test_the_key_is_asked_for(open_page: Open, store: ModelStore, backend: FakeBackend) -> None:
    with live(make_app(store, backend, api_key="secret")) as url:
        page = open_page(url, ready=False)
        page.get_by_label("API key").last.fill("wrong")
        page.keyboard.press("Enter")
        see(page, "That key was not accepted", "dialog")
        page.get_by_label("API key").last.fill("secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("html[data-ready]")
        page.select_option("#model", "tiny:latest")
        ask(page, "Hi")
        rest(page)
        assert page.evaluate("sessionStorage.api_key") == "secret"
        assert "secret" not in page.evaluate("JSON.stringify(localStorage)")


def test_loading_is_shown(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    see(page, "Not in memory", "#load-state")
    backend.stuck_at = 0.5
    page.get_by_role("button", name="Load", exact=True).click()
    see(page, "Loading … 50 %", "#load-state")
    assert page.locator("#load-progress").get_attribute("value") == "0.5"
    backend.stuck_at = None
    see(page, "In memory · 4,096 tokens of context", "#load-state")


def test_parameters_reach_the_model(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    for name, value in (("temperature", "0.5"), ("seed", "7"), ("num_predict", "3")):
        page.locator(f"#set-{name}").fill(value)
    page.get_by_label("System message").last.fill("Be brief.")
    page.locator("#set-budget").fill("5")
    page.locator("#set-budget").blur()
    ask(page, "Hi")
    rest(page)
    request: Any = backend.last
    assert (request.sampling.temperature, request.sampling.seed, request.max_tokens) == (0.5, 7, 3)
    assert "system\nBe brief." in backend.last_text
    page.get_by_role("button", name="Back to the model's own settings").click()
    page.locator("#think-label").click()
    backend.enqueue("At once.")
    ask(page, "Again")
    see(page, "At once.")
    assert backend.last.sampling.temperature == 0.25 and not backend.last_text.endswith("<think>")
