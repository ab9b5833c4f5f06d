"""All pages: self-contained, escaped, accessible, and readable on a phone."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from segtune.reports.page import write_page

COMMANDS = (
    *("evaluate", "validate", "train", "learning_curve", "runs", "label_issues", "suggest"),
)
VOID = {"meta", "img", "br"}
LEARNING_CURVE = "learning_curve_page.html.j2"

every_page = pytest.mark.parametrize("command", COMMANDS)


class Tags(HTMLParser):
    """Which tags a page has, whether they are closed, and what they link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.alternatives: list[str] = []
        self.columns: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.alternatives.append(attributes.get("alt") or "")
        if tag == "th":
            self.columns.append(attributes.get("scope"))
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def open_details(browser: Any) -> None:
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")


@every_page
def test_a_page_is_self_contained(pages: dict[str, Path], command: str) -> None:
    text = pages[command].read_text("utf-8")
    tags = Tags(text)
    assert tags.open == []
    assert all(link.startswith("data:image/jpeg;base64,") for link in tags.links)
    assert not re.search(r"://|url\(|@import", re.sub('base64,[^"]*', "", text))
    assert "Content-Security-Policy\" content=\"default-src 'none';" in text
    assert ("script" in tags.seen) == ("script-src" in text) == (command == "evaluate")
    assert len(text) < 2e6


@every_page
def test_a_page_escapes_names(pages: dict[str, Path], command: str, name: str) -> None:
    text = pages[command].read_text("utf-8")
    assert name not in text
    assert "<i>car" not in text
    assert "<script>&#34;" not in text
    shown = "&lt;b&gt;&#34;&amp;&#39;disc" in text
    assert shown == (command != "learning_curve")


@every_page
def test_a_page_has_one_look_and_a_heading_first(pages: dict[str, Path], command: str) -> None:
    text = pages[command].read_text("utf-8")
    assert '<!doctype html>\n<html lang="en">' in text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text
    assert re.search(r'<header class="(good|bad|neutral)">', text)
    tags = Tags(text)
    assert [tag for tag in tags.seen if re.fullmatch("h[1-6]", tag)][:2] == ["h1", "h2"]
    assert tags.seen.count("h1") == tags.seen.count("main") == 1


@every_page
def test_tables_and_images_can_be_listened_to(pages: dict[str, Path], command: str) -> None:
    text = pages[command].read_text("utf-8")
    tags = Tags(text)
    assert tags.seen.count("caption") == tags.seen.count("table") > 0
    assert set(tags.columns) == {"col", "row"}
    assert all(tags.alternatives)
    charts = re.findall("<svg[^>]*>", text.partition("<body>")[2])
    assert all("aria-label=" in chart or "aria-hidden=" in chart for chart in charts)


@every_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_accessible(
    browser: Any, pages: dict[str, Path], command: str, scheme: str
) -> None:
    axe = pytest.importorskip("axe_core_python.selenium")
    browser.get(pages[command].as_uri())
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    open_details(browser)
    violations = axe.Axe().run(browser)["violations"]
    assert [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in violations] == []


@every_page
def test_a_page_fits_a_phone(browser: Any, pages: dict[str, Path], command: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    browser.get(pages[command].as_uri())
    open_details(browser)
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 390


@every_page
def test_what_scrolls_can_be_scrolled_by_keyboard(
    browser: Any, pages: dict[str, Path], command: str
) -> None:
    browser.get(pages[command].as_uri())
    open_details(browser)
    for region in browser.find_elements("css selector", ".scroll"):
        browser.execute_script("arguments[0].focus()", region)
        assert browser.switch_to.active_element == region


@every_page
def test_nothing_is_fetched_and_nothing_fails(
    browser: Any, pages: dict[str, Path], command: str
) -> None:
    browser.get("about:blank")
    for kind in ("performance", "browser"):
        browser.get_log(kind)
    browser.get(pages[command].as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = {
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    }
    address = pages[command].as_uri()
    assert address in requested
    assert all(url.startswith(("data:image/jpeg", address)) for url in requested)
    assert browser.get_log("browser") == []
    answer = "return fetch('data:,x').then(() => 'fetched', () => 'refused')"
    assert browser.execute_script(answer) == "refused"


@every_page
def test_all_images_are_decoded(browser: Any, pages: dict[str, Path], command: str) -> None:
    browser.get(pages[command].as_uri())
    widths = browser.execute_script(
        "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert len(widths) == len(Tags(pages[command].read_text("utf-8")).alternatives)
    assert all(width > 0 for width in widths)


def test_a_value_that_is_missing_is_an_error_and_leaves_the_old_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("before")
    with pytest.raises(UndefinedError):
        write_page(page, LEARNING_CURVE, tone="good", status="Better", heading="Better")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert page.read_text() == "before"
