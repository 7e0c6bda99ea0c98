"""A report in a real browser: Chromium, headless, without a network."""

import json
import re
import shutil

import pytest
from reports import folder_of_runs

from dipsearch.report.html import page

pytestmark = pytest.mark.slow
webdriver = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
Wait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if BROWSER is None or DRIVER is None:
    pytest.skip("no Chromium and ChromeDriver", allow_module_level=True)

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
WIDTHS = {360: 800, 1440: 900}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    folder_of_runs(folder, genomes=4, names=["<b>bold</b>"])
    path = folder / "report.html"
    path.write_text(page(folder, [], "dipsearch report"), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=WIDTHS)
def browser(request, report, tmp_path_factory):
    """The report's overview, at a width in pixels."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    # a window is never narrower than about 500 pixels; a device may be
    metrics = {"width": request.param, "height": WIDTHS[request.param], "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def opened(browser, report):
    """Each test begins at the overview, and ends with a quiet console and no request."""
    browser.get("about:blank")
    browser.get_log("performance")  # of the browser's own first page
    browser.get(report.as_uri())
    yield
    said = [entry for entry in browser.get_log("browser") if entry["level"] not in ("INFO", "DEBUG")]
    assert not said
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert {re.split("[:#]", address)[0] for address in asked} <= {"file", "data", "blob"}
    assert {address.split("#")[0] for address in asked if address.startswith("file:")} <= {report.as_uri()}
    overflow = "return document.documentElement.scrollWidth - window.innerWidth"
    assert browser.execute_script(overflow) <= 0  # tables scroll, the page does not


def column(browser, place):
    """The words of a column of the ranking, of rows that are shown."""
    rows = browser.find_elements(By.CSS_SELECTOR, ".board > .scroll tbody tr")
    return [row.find_elements(By.TAG_NAME, "td")[place].text for row in rows if row.is_displayed()]


def heads(browser):
    return browser.find_elements(By.CSS_SELECTOR, ".board > .scroll thead tr:first-child button")


def follow(browser, css):
    link = browser.find_element(By.CSS_SELECTOR, css)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()


def headed(browser, words):
    """Wait until a page with this heading is there."""
    head = lambda driver: [each.text for each in driver.find_elements(By.CSS_SELECTOR, "#view h2")] == [words]  # noqa: E731
    Wait(browser, 10).until(head)


def test_a_head_sorts_and_sorts_back(browser):
    names = [head.text for head in heads(browser)]
    at = names.index("PSNR")
    before = column(browser, at)
    assert before == sorted(before, key=float, reverse=True)
    heads(browser)[at].send_keys(Keys.ENTER)  # as with a keyboard
    assert column(browser, at) == sorted(before, key=float, reverse=True)
    heads(browser)[at].send_keys(Keys.ENTER)
    assert column(browser, at) == sorted(before, key=float)
    cell = browser.find_elements(By.CSS_SELECTOR, ".board > .scroll thead tr:first-child th")[at]
    assert cell.get_attribute("aria-sort") == "ascending"
    heads(browser)[names.index("genome")].click()
    assert "<b>bold</b>" in column(browser, names.index("genome"))


def test_a_field_filters_by_words_and_by_comparison(browser):
    names = [head.text for head in heads(browser)]
    fields = browser.find_elements(By.CSS_SELECTOR, ".board > .scroll tr.filters input")
    psnr, genome = names.index("PSNR"), names.index("genome")
    every = column(browser, psnr)
    fields[psnr].send_keys(">27")
    assert column(browser, psnr) == [word for word in every if float(word) > 27]
    fields[genome].send_keys("DIP")
    assert column(browser, genome) == ["dip-denoise"]
    for field in fields[psnr], fields[genome]:
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.BACKSPACE)
    assert column(browser, psnr) == every


def test_links_lead_to_a_genome_and_its_runs_and_back(browser):
    follow(browser, ".board tbody tr.published a")
    headed(browser, "dip-denoise")
    assert browser.find_element(By.CSS_SELECTOR, "#view svg.network").is_displayed()
    assert not browser.find_element(By.ID, "overview").is_displayed()
    assert browser.title.startswith("dip-denoise")
    assert browser.switch_to.active_element.text == "dip-denoise"  # where a screen reader goes on
    follow(browser, "#view tbody a[href^='#run-']")
    headed(browser, "dip-denoise on one, repeat 0")
    wide = browser.execute_script("return Array.from(document.querySelectorAll('#view img'), i => i.naturalWidth)")
    assert len(wide) >= 7 and min(wide) > 1  # every picture is there
    browser.back()
    headed(browser, "dip-denoise")
    follow(browser, "#view a[href='#top']")
    Wait(browser, 10).until(lambda driver: driver.find_element(By.ID, "overview").is_displayed())


def test_the_border_between_two_pictures_moves(browser):
    address = browser.execute_script("return document.querySelector('template[id^=run-]').id")
    browser.execute_script("location.hash = arguments[0]", address)
    Wait(browser, 10).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, ".pair .right"))
    pair = browser.find_element(By.CSS_SELECTOR, ".pair")
    border = browser.find_element(By.CSS_SELECTOR, "[data-border]")
    shown = "return getComputedStyle(arguments[0].querySelector('.right')).clipPath"
    assert "50%" in browser.execute_script(shown, pair)
    for _ in range(10):
        border.send_keys(Keys.ARROW_RIGHT)
    assert "60%" in browser.execute_script(shown, pair)
    before = pair.size["width"]
    zoom = browser.find_element(By.CSS_SELECTOR, "[data-zoom]")
    assert before == 8 * 32  # small pictures begin as large as they can be
    zoom.send_keys(Keys.ARROW_LEFT)
    assert pair.size["width"] == 7 * 32
    side = browser.find_element(By.CSS_SELECTOR, "[data-side=left]")
    side.send_keys("truth")
    assert "truth" in pair.find_element(By.CSS_SELECTOR, ".left").get_attribute("class")


def test_downloads_hold_every_row(browser):
    text = browser.execute_script(
        "const data = JSON.parse(document.querySelector('script.rows').textContent); return [csv(data), json(data)]"
    )
    rows = json.loads(text[1])
    assert len(rows) == 6 and rows[0]["psnr"] > rows[1]["psnr"]
    assert text[0].splitlines()[0].startswith("rank,name,summary,psnr") and len(text[0].splitlines()) == 7


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_have_contrast(browser, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    told = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in browser.execute_script(told))
    assert abs(ink - paper) > 500 and (ink < paper) == (scheme == "light")


def test_a_printed_table_is_whole(browser):
    if browser.execute_script("return window.innerWidth") < 1000:
        pytest.skip("narrower than a sheet of paper")
    whole = (
        "return [...document.querySelectorAll('.board > .scroll')]"
        ".map(each => [each.scrollWidth - each.clientWidth, each.querySelector('tr.filters').offsetHeight])"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    # A4 landscape without its margins, at 96 pixels an inch
    metrics = {"width": 1040, "height": 720, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        tables = browser.execute_script(whole)
        assert tables and all(beyond <= 0 and filters == 0 for beyond, filters in tables)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        metrics |= {"width": max(WIDTHS), "height": WIDTHS[max(WIDTHS)]}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
