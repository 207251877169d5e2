"""The report in a browser: one slider moves all, nothing is requested or logged, nothing hostile runs."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from planted import EVENTS, milestones, planted_run

import interp
from interp.milestones.words import headline
from interp.plots import Panel, curve_panel
from interp.plots.curves import norm_curves
from interp.plots.panels import STAGE
from interp.reporting.page import render

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>bold</b>'
NOW = """() => {
    const y = (id, trace) => Array.from(document.getElementById(id).data[trace].y);
    const cursors = [...document.querySelectorAll('[data-cursor]')];
    return {
        index: Number(document.getElementById('slider').value),
        spoken: document.getElementById('slider').getAttribute('aria-valuetext'),
        step: document.getElementById('r-step').textContent,
        circle: y('circle', 1),
        line: y('circle', 0),
        bars: y('spectrum', 0),
        cursors: cursors.map((gd) => Number(gd.dataset.cursor)),
        places: cursors.map((gd) => Number(gd.querySelector('.cursor line').getAttribute('x1'))),
    };
}"""
SETTLE = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))"


@pytest.fixture(scope="module")
def browser():
    playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{CHROMIUM} is missing, and CI must run the browser tests")
        pytest.skip(f"{CHROMIUM} is not installed")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run():
    return planted_run(p=59, checkpoints=80)


@pytest.fixture(scope="module")
def file(tmp_path_factory, run):
    data, metrics = run
    path = tmp_path_factory.mktemp("report") / "report.html"
    found = milestones(data, metrics)
    summary = [*headline(found, data), (HOSTILE, HOSTILE, HOSTILE)]
    events = [*EVENTS, (2000, HOSTILE)]
    html = render(
        data, metrics, title=HOSTILE, summary=summary, events=events, milestones=found, config={HOSTILE: HOSTILE}
    )
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(browser, file):
    page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
    page.logged, page.requested = [], []
    page.on("console", lambda message: page.logged.append(message.text))
    page.on("pageerror", lambda error: page.logged.append(str(error)))
    page.on("request", lambda request: page.requested.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)
    yield page
    page.close()


def settled(page):
    page.evaluate(SETTLE)
    return page.evaluate(NOW)


def until(page, expression, seconds=5.0):
    """Wait in Python: the page's security policy forbids the `eval` that `wait_for_function` polls with."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(20)


def slide(page, index):
    page.evaluate(
        """(index) => { const s = document.getElementById('slider');
        s.value = index; s.dispatchEvent(new Event('input')); }""",
        index,
    )
    return settled(page)


def test_it_opens_at_the_last_step(page, run):
    now = slide(page, 79)
    assert now["index"] == 79
    assert now["spoken"] == "step 5187 of 5187 · test accuracy 1.00"


def test_the_slider_moves_circle_bars_and_every_cursor(page, run):
    data, _ = run
    after, before = slide(page, 79), slide(page, 10)
    step = int(data["step"].values[10])
    want = data["embedding_coordinates"].sel(step=step, component=2).values
    assert before["circle"] == pytest.approx(list(want), abs=1e-4)
    assert before["bars"] == pytest.approx(list(data["embedding_power"].sel(step=step).values), rel=1e-5)
    assert len(before["line"]) == 60
    assert len(before["cursors"]) == 23
    assert set(before["cursors"]) == {step}
    assert before["step"] == f"{step:,}"
    for name in ("circle", "line", "bars"):
        assert before[name] != after[name]
    assert all(b < a for b, a in zip(before["places"], after["places"]))


def test_the_points_on_the_screen_move_too(page):
    where = """() => [...document.querySelectorAll('#circle .point')].slice(0, 5)
        .map((point) => point.getAttribute('transform'))"""
    slide(page, 2)
    early = page.evaluate(where)
    slide(page, 79)
    assert len(early) == 5
    assert all(a != b for a, b in zip(early, page.evaluate(where)))


def test_a_cursor_stands_at_its_step(page):
    slide(page, 40)
    off = page.evaluate(
        """() => { const gd = document.getElementById('loss'), x = gd._fullLayout.xaxis;
        const place = x._offset + x.d2p(Number(gd.dataset.cursor));
        return Number(gd.querySelector('.cursor line').getAttribute('x1')) - place; }"""
    )
    assert off == pytest.approx(0, abs=0.01)


def test_a_cursor_runs_through_all_the_heads(page):
    slide(page, 40)
    line, heads = page.evaluate(
        """() => { const gd = document.getElementById('heads'), line = gd.querySelector('.cursor line');
        const axes = ['yaxis', 'yaxis2', 'yaxis3', 'yaxis4'].map((name) => gd._fullLayout[name]);
        return [['y1', 'y2'].map((end) => Number(line.getAttribute(end))),
            [Math.min(...axes.map((a) => a._offset)), Math.max(...axes.map((a) => a._offset + a._length))]]; }"""
    )
    assert line == pytest.approx(heads, abs=1)


def test_arrow_keys_step_and_space_plays(page):
    slide(page, 30)
    page.locator("#slider").focus()
    page.keyboard.press("ArrowRight")
    assert settled(page)["index"] == 31
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    assert settled(page)["index"] == 20
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    assert settled(page)["index"] == 21
    page.keyboard.press(" ")
    until(page, "Number(document.getElementById('slider').value) > 22")
    assert page.locator("#play").get_attribute("aria-pressed") == "true"
    page.keyboard.press(" ")
    assert page.locator("#play").get_attribute("aria-pressed") == "false"
    still = settled(page)["index"]
    page.wait_for_timeout(150)
    assert settled(page)["index"] == still


def test_the_play_button_plays_to_the_end_and_stops(page):
    slide(page, 76)
    page.locator("#play").click()
    until(page, "document.getElementById('play').getAttribute('aria-pressed') === 'false'")
    assert settled(page)["index"] == 79


def test_a_click_on_a_curve_jumps_there(page, run):
    data, _ = run
    slide(page, 79)
    box = page.locator("#accuracy .nsewdrag").first.bounding_box()
    want = page.evaluate("document.getElementById('accuracy')._fullLayout.xaxis.d2p(1000)")
    page.mouse.move(box["x"] + want, box["y"] + box["height"] / 2)
    page.wait_for_timeout(150)
    page.mouse.click(box["x"] + want, box["y"] + box["height"] / 2)
    until(page, "Number(document.getElementById('slider').value) < 79")
    got = int(data["step"].values[settled(page)["index"]])
    assert abs(got - 1000) <= 66


def test_a_click_on_the_heat_map_jumps_there(page, run):
    data, _ = run
    slide(page, 79)
    page.locator("#heat-embedding").scroll_into_view_if_needed()
    box = page.locator("#heat-embedding .nsewdrag").first.bounding_box()
    want = page.evaluate("document.getElementById('heat-embedding')._fullLayout.xaxis.d2p(500)")
    page.mouse.move(box["x"] + want, box["y"] + box["height"] / 2)
    page.wait_for_timeout(150)
    page.mouse.click(box["x"] + want, box["y"] + box["height"] / 2)
    until(page, "Number(document.getElementById('slider').value) < 79")
    assert abs(int(data["step"].values[settled(page)["index"]]) - 500) <= 66


def test_an_event_mark_jumps_there(page, run):
    data, _ = run
    page.locator("#marks button").nth(1).click()
    assert abs(int(data["step"].values[settled(page)["index"]]) - 1240) <= 33


def test_the_plane_of_components_can_be_chosen(page, run):
    data, _ = run
    slide(page, 79)
    page.locator("#pair").select_option("1")
    want = data["embedding_coordinates"].isel(step=-1).sel(component=4).values
    assert settled(page)["circle"] == pytest.approx(list(want), abs=1e-4)
    assert "frequency here: 2." in page.locator("#n-circle").text_content()
    page.locator("#pair").select_option("0")


def test_the_small_circles_follow_when_the_slider_rests(page, run):
    data, _ = run
    slide(page, 5)
    page.wait_for_timeout(300)
    want = data["embedding_coordinates"].isel(step=5).sel(component=3).values
    got = page.evaluate("Array.from(document.getElementById('components').data[3].x)")
    assert got == pytest.approx(list(want), abs=1e-4)


RANGES = """() => ({
    circle: document.getElementById('circle').layout.xaxis.range[1],
    bars: document.getElementById('spectrum').layout.yaxis.range[1],
    small: document.getElementById('components').layout.xaxis2.range[1],
})"""


def test_the_scale_is_that_of_all_steps_or_fits_the_step(page, run):
    xyz = np.abs(run[0]["embedding_coordinates"].transpose("step", "component", "token").values)
    power = run[0]["embedding_power"].values
    slide(page, 10)
    assert not page.is_checked("#fit")
    page.wait_for_timeout(300)
    of_all = page.evaluate(RANGES)
    assert of_all["circle"] == pytest.approx(1.08 * xyz[:, :2].max(), rel=1e-3)
    page.check("#fit")
    page.wait_for_timeout(300)
    fitted = page.evaluate(RANGES)
    assert fitted["circle"] == pytest.approx(1.08 * xyz[10, :2].max(), rel=1e-3)
    assert fitted["small"] == pytest.approx(1.08 * xyz[10, 2:4].max(), rel=1e-3)
    assert fitted["bars"] == pytest.approx(1.05 * power[10].max(), rel=1e-3)
    assert fitted["circle"] < of_all["circle"]
    slide(page, 79)
    assert page.evaluate(RANGES)["circle"] == pytest.approx(1.08 * xyz[79, :2].max(), rel=1e-3)
    page.uncheck("#fit")
    page.wait_for_timeout(300)
    assert page.evaluate(RANGES) == pytest.approx(of_all)


def test_the_step_axis_can_be_linear(page):
    slide(page, 40)
    page.locator("#scale").select_option("linear")
    page.wait_for_timeout(200)
    kinds = page.evaluate(
        "['loss', 'norm', 'heat-embedding'].map((id) => document.getElementById(id).layout.xaxis.type)"
    )
    assert kinds == ["linear"] * 3
    assert "log" not in page.evaluate("document.getElementById('loss').layout.xaxis.title.text")
    middle = page.evaluate("document.getElementById('loss').querySelector('.cursor line').getAttribute('x1')")
    page.locator("#scale").select_option("log")
    page.wait_for_timeout(200)
    assert float(middle) < settled(page)["places"][1]


def test_dark_mode_repaints_page_and_figures(page):
    look = """() => [getComputedStyle(document.body).backgroundColor,
        document.getElementById('loss')._fullLayout.font.color,
        document.getElementById('circle')._fullLayout.font.color]"""
    light = page.evaluate(look)
    page.emulate_media(color_scheme="dark")
    until(page, "document.documentElement.dataset.theme === 'dark'")
    page.wait_for_timeout(300)
    dark = page.evaluate(look)
    assert all(a != b for a, b in zip(light, dark))
    page.locator("#theme").click()
    page.wait_for_timeout(300)
    assert page.evaluate(look) == light
    page.locator("#theme").click()
    page.emulate_media(color_scheme="light")
    page.locator("#theme").click()


def test_it_fits_a_narrow_window(page):
    page.set_viewport_size({"width": 800, "height": 900})
    page.wait_for_timeout(400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    page.set_viewport_size({"width": 1400, "height": 900})


def test_figures_and_slider_have_names(page):
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('[role=img]')].filter((e) =>
            !document.getElementById(e.getAttribute('aria-labelledby')).textContent.trim()).length"""
    )
    assert unnamed == 0
    assert page.locator("#slider").get_attribute("aria-label") == "Training step"


def test_hostile_text_is_shown_and_not_run(page):
    assert page.locator("h1").text_content() == HOSTILE
    assert page.title() == HOSTILE
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_a_tick_is_quick(page):
    times = page.evaluate(
        """async () => { const s = document.getElementById('slider'), times = [];
        for (let i = 0; i < 30; i++) {
            const t = performance.now();
            s.value = 2 * i; s.dispatchEvent(new Event('input'));
            await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
            times.push(performance.now() - t);
        }
        return times.sort((a, b) => a - b); }"""
    )
    assert times[15] < 250  # about 30 ms on an idle machine; generous, because test machines are shared


@pytest.fixture(scope="module")
def guest_page(browser, run, tmp_path_factory):
    """A report in which a panel of the user's own replaces the circle, another has a section, and a third one fails."""
    data, metrics = run
    panels = [
        Panel("circle", group=STAGE, kind="still", needs=["weight_norm"], draw=lambda context: norm_curves(data)),
        curve_panel("margin", ["weight_norm"], title="Margin", y="logits", group="Robustness", note="Grows."),
        Panel("broken", group="Robustness", draw=lambda context: data["no such variable"]),
    ]
    path = tmp_path_factory.mktemp("guest") / "report.html"
    with pytest.warns(UserWarning, match="broken"):
        path.write_text(render(data, metrics, title="Guests", panels=panels), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
    page.logged = []
    page.on("console", lambda message: page.logged.append(message.text))
    page.on("pageerror", lambda error: page.logged.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)
    yield page
    page.close()


def test_a_users_panel_moves_with_the_slider(guest_page, run):
    data, _ = run
    guest_page.evaluate(
        "(s) => { s.value = 10; s.dispatchEvent(new Event('input')); }", guest_page.query_selector("#slider")
    )
    guest_page.evaluate(SETTLE)
    assert guest_page.evaluate("Number(document.getElementById('margin').dataset.cursor)") == int(
        data["step"].values[10]
    )
    assert guest_page.locator("#g-Robustness").is_visible()
    line = guest_page.locator(".omitted")
    assert line.text_content().startswith("The panel “broken” was left out: KeyError")
    assert line.is_visible()


def test_a_page_whose_circle_was_replaced_has_its_other_parts(guest_page, run):
    data, _ = run
    guest_page.locator("#scale").select_option("linear")
    guest_page.evaluate(
        "(s) => { s.value = 5; s.dispatchEvent(new Event('input')); }", guest_page.query_selector("#slider")
    )
    guest_page.wait_for_timeout(300)
    want = data["embedding_coordinates"].isel(step=5).sel(component=3).values
    got = guest_page.evaluate("Array.from(document.getElementById('components').data[3].x)")
    assert got == pytest.approx(list(want), abs=1e-4)
    guest_page.locator("#components .nsewdrag").first.click()
    assert guest_page.locator("#pair").count() == 0
    assert guest_page.logged == []


@pytest.fixture(scope="module")
def explained_page(browser, toy_run, tmp_path_factory):
    """The report of an account: `interp report RUN --panels explain`."""
    path = tmp_path_factory.mktemp("explained") / "report.html"
    account = interp.explain(toy_run, keys=[1, 3], permutations=2)
    interp.report(toy_run, path, explanation=account)
    page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
    page.logged = []
    page.on("console", lambda message: page.logged.append(message.text))
    page.on("pageerror", lambda error: page.logged.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)
    page.locator("#margins").scroll_into_view_if_needed()
    yield page, account.timeline["certified_margin"].values
    page.close()


def test_the_slider_moves_the_margins_and_the_cursors_of_an_account(explained_page, toy_run):
    page, margins = explained_page
    until(page, "() => (document.getElementById('margins').data || []).length > 0")
    shown = """() => [Array.from(document.getElementById('margins').data[0].z, (row) => Array.from(row)),
        ['births', 'head-ablations'].map((id) => Number(document.getElementById(id).dataset.cursor))]"""
    for index in (1, len(toy_run.steps) - 1):
        page.evaluate(
            """(index) => { const s = document.getElementById('slider');
            s.value = index; s.dispatchEvent(new Event('input')); }""",
            index,
        )
        page.wait_for_timeout(300)
        map_, cursors = page.evaluate(shown)
        assert np.array(map_) == pytest.approx(margins[index].reshape(7, 7), abs=1e-3)
        assert cursors == [int(toy_run.steps[index])] * 2
    assert np.abs(margins[1] - margins[-1]).max() > 0.01  # so that the map has moved
    assert page.logged == []


def test_nothing_was_requested_and_nothing_was_logged(page, file):  # last: it looks back on all of the above
    assert page.requested == [file.as_uri()]
    assert page.logged == []
