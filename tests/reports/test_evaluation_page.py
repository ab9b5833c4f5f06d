"""The page: what it says, that it stands alone, and how it behaves in a real browser."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from segtune.dataset.coco import read_split
from segtune.evaluate import main
from tests.converted import write_converted
from tests.test_evaluate import answers, perfect, shifted

BROWSER, DRIVER = (
    shutil.which("chromium") or shutil.which("google-chrome"),
    shutil.which("chromedriver"),
)
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium and chromedriver here"
)
VOID = {"meta", "img", "br", "rect", "line", "circle", "polyline"}
NAME = "<b>\"&'disc"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section: mistakes of both models, label_issues, other words."""
    folder = tmp_path_factory.mktemp("report")
    coco = write_converted(folder, {"valid": 6, "test": 12})
    for split in ("valid", "test"):
        values = json.loads((coco / f"{split}.json").read_text())
        values["categories"][0]["name"] = NAME
        (coco / f"{split}.json").write_text(json.dumps(values))
    best = perfect(coco)
    empty = next(i.id for i in read_split(coco / "test.json").images if i.id % 3 == 0)
    wrong = [{**best[0], "category_id": 2}, {**best[0], "image_id": empty, "category_id": 3}]
    found = {"base": wrong, "tuned": [*best[3:], *wrong, *shifted(best[3:4], 10)]}
    files = {**found, "base_valid": [], "tuned_valid": []}
    outside = answers(coco, ["horse", "<i>car"], best[:1])
    command = [f"--coco={coco / 'test.json'}", f"--valid={coco / 'valid.json'}"]
    for name, results in [*files.items(), ("base_outside", outside), ("tuned_outside", outside)]:
        text = results if isinstance(results, str) else json.dumps(results)
        (folder / f"{name}.json").write_text(text)
        command.append(f"--{name.replace('_', '-')}={folder / name}.json")
    main([*command, f"--out={folder / 'out'}"])
    return folder / "out" / "report.html"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_stands_alone_and_escapes_names(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "<b>\"&'disc" not in text
    assert "<i>car" not in text
    assert "&lt;b&gt;&#34;&amp;&#39;disc" in text
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.headings[0] == "h1"
    assert len(tags.links) > 10
    assert all(link.startswith("data:image/jpeg;base64,") for link in tags.links)
    assert not re.search(r"://|url\(|@import", re.sub('base64,[^"]*', "", text))
    assert len(text) < 2e6


def test_the_verdict_comes_first(page: Path) -> None:
    text = page.read_text("utf-8")
    verdict = json.loads((page.parent / "metrics.json").read_text())["verdict"]
    body = text.partition("<body>")[2]
    assert body.index(verdict) < min(body.index("<table"), body.index("<img"))
    assert '<header class="better">' in body


def test_every_section_explains_itself(page: Path) -> None:
    body = page.read_text("utf-8").partition("<main>")[2]
    sections = re.findall(r"<section.*?</section>", body, re.S)
    titles = [re.search(r"<h2[^>]*>(.*?)</h2>", section) for section in sections]
    assert [title and title[1] for title in titles] == [
        "Key numbers",
        "Images",
        "Classes",
        "Mistakes",
        "What a score is worth",
        "What was forgotten",
        "Labels to look at",
        "All numbers",
    ]
    assert all(re.search(r"<(p|caption)\b[^>]*>[^<]{40,}", section) for section in sections)


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_window_size(1280, 900)
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def shown(browser: Any) -> list[Any]:
    return [p for p in browser.find_elements("css selector", ".triple") if p.is_displayed()]


def choose(browser: Any, switch: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", f"{switch}-filter")).select_by_visible_text(value)


def contents(image: Any) -> tuple[list[str], list[str], str]:
    classes, kinds = (json.loads(image.get_attribute(f"data-{n}")) for n in ("classes", "kinds"))
    return classes, kinds, image.get_attribute("data-why")


@needs_browser
def test_the_switches_show_what_they_say(browser: Any) -> None:
    everything = [contents(p) for p in shown(browser)]
    assert len(everything) > 4
    tried = 0
    for switch, place, values in (
        ("class", 0, [NAME, "square", "cross"]),
        ("kind", 1, ["correct", "classification", "missed", "both"]),
        ("why", 2, ["worst", "improved most"]),
    ):
        for value in values:
            choose(browser, switch, value)
            expected = [c for c in everything if value in c[place]]
            assert [contents(p) for p in shown(browser)] == expected
            count = browser.find_element("id", "shown-count").text
            assert count == f"{len(expected)} image{'s' * (len(expected) != 1)}"
            tried += 0 < len(expected) < len(everything)
        choose(browser, switch, "all")
    assert tried >= 4
    choose(browser, "class", "square")
    choose(browser, "kind", "missed")
    both = [c for c in everything if "square" in c[0] and "missed" in c[1]]
    assert [contents(p) for p in shown(browser)] == both
    choose(browser, "class", "all")
    choose(browser, "kind", "all")
    assert len(shown(browser)) == len(everything)


@needs_browser
def test_the_table_of_classes_is_sorted_by_its_headings(browser: Any) -> None:
    def column(place: int) -> list[str]:
        rows = browser.find_elements("css selector", "#class-table tbody tr")
        return [row.find_elements("css selector", "th, td")[place].text for row in rows]

    heading = browser.find_elements("css selector", "#class-table thead th")
    names, recall = column(0), heading[9]
    recall.find_element("tag name", "button").click()
    assert recall.get_attribute("aria-sort") == "descending"
    shares = [float(text.rstrip(" %")) for text in column(9) if text != "n/a"]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) > 1
    recall.find_element("tag name", "button").click()
    assert recall.get_attribute("aria-sort") == "ascending"
    assert [float(text.rstrip(" %")) for text in column(9) if text != "n/a"] == shares[::-1]
    heading[0].find_element("tag name", "button").click()
    assert recall.get_attribute("aria-sort") == "none"
    assert column(0) == sorted(names, key=str.lower)


@needs_browser
def test_all_images_are_decoded(browser: Any) -> None:
    widths = browser.execute_script(
        "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert len(widths) > 10
    assert min(widths) > 0


@needs_browser
def test_nothing_is_fetched_and_nothing_goes_wrong(browser: Any, page: Path) -> None:
    browser.refresh()
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    }
    assert page.as_uri() in asked
    assert all(url.startswith(("data:image/jpeg", page.as_uri())) for url in asked)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return fetch('data:,x').then(() => 'got', () => 'refused')") == (
        "refused"
    )


@needs_browser
def test_it_works_within_snakemakes_report(browser: Any, page: Path, tmp_path: Path) -> None:
    # `snakemake --report` shows it in a frame, from a data URI.
    data = base64.b64encode(page.read_bytes()).decode()
    frame = f'<iframe src="data:text/html;charset=utf8;base64,{data}" height=600></iframe>'
    (tmp_path / "outer.html").write_text(f"<!doctype html><title>outer</title>{frame}")
    browser.get((tmp_path / "outer.html").as_uri())
    browser.switch_to.frame(browser.find_element("tag name", "iframe"))
    everything = len(shown(browser))
    choose(browser, "why", "improved most")
    assert 0 < len(shown(browser)) < everything
    browser.switch_to.default_content()
    browser.get(page.as_uri())


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(browser: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_core_python.selenium")
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    for details in browser.find_elements("tag name", "details"):
        browser.execute_script("arguments[0].open = true", details)
    broken = axe.Axe().run(browser)["violations"]
    assert [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in broken] == []


@needs_browser
def test_the_page_fits_a_telephone(browser: Any) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 390
