"""Hostile names in reports, figures and tables: in Chromium nothing runs, nothing is asked for, no element and no link
comes of them; in a table no cell begins as a formula."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import interp
from interp.cli import main
from interp.plots import curve_panel, measure_curves, phase_diagram, steps_against
from interp.store import RunWriter
from tests.soak.scale import scaled

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAYLOADS = (
    "</script><script>window.hacked=1</script>",
    "<script>alert(1)</script>",
    '"><img src=x onerror="window.hacked=1">',
    "'><img src=x onerror=window.hacked=1>",
    "<svg onload=window.hacked=1>",
    '<iframe srcdoc="<script>parent.hacked=1</script>"></iframe>',
    '<a href="javascript:window.hacked=1">here</a>',
    '<a href="https://example.com/">there</a>',
    '" onmouseover="window.hacked=1" x="',
    "' autofocus onfocus='window.hacked=1",
    "javascript:window.hacked=1",
    "https://example.com/?leak",
    '=HYPERLINK("https://example.com/","here")',
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1",
    "\u2028window.hacked=1\u2029",
    "{{ 7 * 7 }}{% for x in y %}${window.hacked=1}#{7*7}",
    "%{x}<br>%{customdata}<extra></extra>",
    "</style><style>body{background:url(https://example.com/x)}</style>",
    "<!--<script>window.hacked=1//-->",
    "<base href=https://example.com/><link rel=stylesheet href=//example.com/x.css>",
    "&lt;img src=x onerror=window.hacked=1&gt;&#60;script&#62;",
    "<b>bold</b><sup>up</sup><span style=color:red>red</span><meta http-equiv=refresh content=0;//example.com>",
)
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
WORDS = "a harmless name"
CENSUS = """() => {
    const tags = 'script style img image iframe a base link meta form object embed video audio b i em sup sub ' +
        'foreignObject animate set span';
    const found = {};
    for (const tag of tags.split(' ')) found[tag] = document.getElementsByTagName(tag).length;
    found.links = document.querySelectorAll('[href^=h], [href^=j], [*|href^=h]').length;
    found.handlers = document.querySelectorAll('[onerror], [onload], [onmouseover], [onfocus]').length;
    found.text = document.body.textContent.includes('harmless') || document.body.textContent.includes('hacked');
    return found;
}"""


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


# --- pages in which every text is chosen ------------------------------------------------------------------------------


def named_run(toy_run: interp.Trajectory, folder: Path, text: str) -> interp.Trajectory:
    """The toy run with a text as the name of its folder and of a metric, in its events and in its provenance."""
    run = dict(toy_run.run)
    run["provenance"] = {**run["provenance"], "device_name": text, text: text, "from": text}
    run["events"] = [[4, text], [8, text]]
    with RunWriter.create(folder, run, fsync=False) as writer:
        for at, step in enumerate(toy_run.steps.tolist()):
            writer.append(step, {name: toy_run.param(name)[at] for name in toy_run.names})
        for step in toy_run.metrics["step"].values.tolist():
            numbers = {str(name): float(column.sel(step=step)) for name, column in toy_run.metrics.items()}
            writer.log({"step": step, **numbers, text: float(step)})
        writer.finish()
    return interp.load(folder)


def report_page(traj: interp.Trajectory, folder: Path, texts: list[str]) -> Path:
    """A report with texts in everything that is somebody's to choose."""
    chosen = iter(texts * 20)
    data = interp.measure(
        traj, ["weight_norm", "test_loss", "test_accuracy", "embedding_power", "embedding_coordinates"]
    )
    data = data.assign({name: data[name].assign_attrs(long_name=next(chosen)) for name in data.data_vars})
    panels = [
        curve_panel(
            f"panel-{i}", {"weight_norm": next(chosen)}, title=next(chosen), y=next(chosen),
            note=next(chosen), method=next(chosen),
        )
        for i in range(3)
    ]  # fmt: skip
    return interp.report(traj, folder / "report.html", data=data, panels=panels, title=next(chosen))


def rendered_page(data: xr.Dataset, folder: Path, texts: list[str]) -> Path:
    """A report of plain results: summary, configuration, provenance and events."""
    from interp.reporting.page import render

    chosen = iter(texts * 20)
    html = render(
        data,
        title=next(chosen),
        summary=[(next(chosen), next(chosen), next(chosen)) for _ in range(3)],
        config={next(chosen): {next(chosen): next(chosen)}, "task": {"operation": next(chosen)}},
        provenance={next(chosen): next(chosen)},
        events=[(step, next(chosen)) for step in (4, 8, 12)],
        failures={next(chosen): next(chosen)},
    )
    path = folder / "rendered.html"
    path.write_text(html, encoding="utf-8")
    return path


def sweep_page(folder: Path, texts: list[str]) -> Path:
    """The figures of a sweep over axes whose names and values are texts."""
    chosen = texts * 20
    x, y = f"x {chosen[0]}", f"y {chosen[1]}"
    columns, rows = list(dict.fromkeys(texts))[:3], list(dict.fromkeys(texts))[-3:]
    phases = ["comprehension", "grokking", chosen[2]]
    shape = (len(columns), len(rows))
    share = np.full((*shape, 3), 1 / 3)
    step = np.full((*shape, 2), 100.0)
    results = xr.Dataset(
        {
            "phase_share": ((x, y, "phase"), share),
            "generalised_step": ((x, y, "seed"), step),
            "generalised_censored": ((x, y, "seed"), step < 0),
            "last_step": ((x, y, "seed"), step * 2),
            **{f"steps_to_generalise{side}": ((x, y, "quantile"), step[..., :1]) for side in ("", "_lower", "_upper")},
        },
        {x: columns, y: rows, "phase": phases, "seed": [0, 1], "quantile": [0.5]},
    )
    curves = xr.Dataset({"value": ("step", [1.0, 2.0])}, {"step": [0, 10]})
    figures = [
        phase_diagram(results, x, y),
        steps_against(results, x, by=y),
        measure_curves(curves, {"value": chosen[3]}, title=chosen[4], y=chosen[5]),
    ]
    page = folder / "figures.html"
    parts = [
        fig.to_html(full_html=False, include_plotlyjs=i == 0, div_id=f"figure{i}", default_height="600px")
        for i, fig in enumerate(figures)
    ]
    page.write_text(f"<!doctype html><meta charset=utf-8><body>{''.join(parts)}</body>", encoding="utf-8")
    return page


def census(browser, file: Path) -> dict[str, int]:
    """Elements of a page, once drawn and pointed at; nothing may have been asked for or said."""
    page = browser.new_page(viewport={"width": 1400, "height": 1800 if file.name == "figures.html" else 900})
    heard: list[str] = []
    page.on("dialog", lambda dialog: (heard.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("console", lambda message: heard.append(f"console {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error {error}"))
    page.on("request", lambda request: heard.append(f"request {request.url}") if request.url != file.as_uri() else None)
    page.goto(file.as_uri())
    if file.name == "figures.html":
        page.wait_for_selector("#figure2 .main-svg", state="attached", timeout=20_000)
        places = []
        for plot in page.query_selector_all(".js-plotly-plot"):
            box = plot.bounding_box()
            places += [(box["x"] + share * box["width"], box["y"] + share * box["height"]) for share in (1 / 3, 1 / 2)]
    else:
        page.wait_for_selector("html[data-ready]", state="attached", timeout=20_000)
        places = [(300, 300), (700, 450), (400, 600)]
    for place in places:
        page.mouse.move(*place)
        page.wait_for_timeout(30)
    found = page.evaluate(CENSUS)
    assert found.pop("text"), "the text is not on the page at all"
    assert page.evaluate("window.hacked") is None
    assert page.url == file.as_uri()
    assert [words for words in heard if "MathJax is not loaded" not in words] == []  # Plotly's, of any figure
    page.close()
    return found


@pytest.mark.browser
def test_nothing_comes_of_a_name_in_a_page(browser, toy_run, tmp_path):
    data = interp.measure(toy_run, ["weight_norm"])  # of few figures, to be quick
    wanted = None
    for turn in range(-1, scaled(1, len(PAYLOADS))):
        texts = [WORDS] * len(PAYLOADS) if turn < 0 else [*PAYLOADS[turn:], *PAYLOADS[:turn]]
        if turn == 0:  # all of them everywhere
            texts = [" ".join(PAYLOADS)] * len(PAYLOADS)
        folder = tmp_path / str(turn)
        folder.mkdir()
        name = texts[0].replace("/", "\u2215")[:80]
        traj = named_run(toy_run, folder / name, texts[0])
        pages = [report_page(traj, folder, texts), rendered_page(data, folder, texts), sweep_page(folder, texts)]
        found = [census(browser, page) for page in pages]
        wanted = wanted or found
        assert found == wanted, [page.name for page, one, other in zip(pages, found, wanted) if one != other]
        shutil.rmtree(folder)


# --- tables -----------------------------------------------------------------------------------------------------------


def cells(path: Path) -> list[str]:
    """All cells of a table that are no numbers."""
    found = []
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.reader(stream):
            for cell in row:
                try:
                    float(cell)
                except ValueError:
                    found.append(cell)
    return found


def test_no_cell_of_a_table_begins_as_a_formula(toy_run, tmp_path, capsys):
    formulas = [text for text in PAYLOADS if text.startswith(FORMULAS)]
    assert len(formulas) == 5
    runs = [named_run(toy_run, tmp_path / text.replace("/", "\u2215"), text).folder for text in formulas]
    main(["compare", *map(str, runs), "--output", str(tmp_path / "compare.csv")])
    for i, run in enumerate(runs):
        main(["measure", str(run), "weight_norm", "--output", str(tmp_path / f"measure{i}.csv")])
    for table in tmp_path.glob("*.csv"):
        found = cells(table)
        assert found
        assert not [cell for cell in found if cell.startswith(FORMULAS)], table.name
    compared = cells(tmp_path / "compare.csv")
    for text, run in zip(formulas, runs):
        assert any(text.strip() in cell or run.name.strip() in cell for cell in compared), text
