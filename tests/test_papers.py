"""Figures as data: claims that can fail, runs that are not repeated, and the table of what came out."""

import dataclasses
import importlib
import math
import re
from pathlib import Path
from string import ascii_uppercase as LETTERS

import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

import interp
from interp import papers
from interp.cli import main
from interp.config.recipes import Recipe
from interp.errors import InvalidArgumentError, NotAvailableError, UnknownNameError
from interp.papers.kit import running
from interp.papers.kit.figure import PRESETS, Claim, Figure
from interp.papers.kit.running import PAPERS, figures, figures_of, reproduce, stored
from interp.papers.kit.table import counts, draw, finished_recipes, table
from interp.plots.images import write_pictures
from interp.store import RunWriter

LABELS = [
    *(f"K{i}" for i in range(1, 6)),
    *(f"H{i}" for i in range(1, 9)),
    *("A2", "A3", "A4", "A5", "A6", "A7", "A71", "A72", "A73", "A74", "A78"),
    *(f"B{i}" for i in range(1, 14)),
    *("N1", "N2"),
]
DELAY = Claim(text="the loss ends below 5", measure=lambda data: float(data["loss"][-1]), at_most=5.0, unit="nats")
NEVER = Claim(text="it ends above 100", measure=lambda data: float(data["loss"][-1]), at_least=100.0)
OPEN = Claim(text="the norm falls", measure=lambda data: math.nan, at_least=0.0, at_most=1.0, needs="more steps")


@pytest.fixture
def figure(toy_config, monkeypatch):
    """A figure of its own, of two toy runs; it counts how often it was computed."""

    def compute(trajs, preset):
        computed.append(preset)
        losses = np.stack([traj.metrics["train_loss"].dropna("step").values for traj in trajs]).mean(0)
        return xr.Dataset({"loss": ("step", losses), "unknown": ("step", np.full(len(losses), np.nan))})

    computed = []
    one = Figure(
        paper="A paper",
        label="T1",
        title="Losses of two toy runs",
        runs=lambda preset: [toy_config.replace({"seed": seed}) for seed in (5, 6)],
        results=compute,
        picture=lambda data: go.Figure(go.Scatter(y=data["loss"].values)),
        claims=(DELAY, NEVER, OPEN),
        notes="Chosen here: everything.",
    )
    monkeypatch.setattr(running, "figures", lambda: {"T1": one})
    return one, computed


def test_every_figure_of_the_papers_is_there():
    assert sorted(figures()) == sorted(LABELS)
    for label, figure in figures().items():
        assert figure.label == label
        assert figure.claims, label
        assert len({claim.text for claim in figure.claims}) == len(figure.claims)
        for preset in PRESETS:
            configs = figure.runs(preset)
            assert len({config.run_id for config in configs}) == len(configs), (label, preset)


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_is_a_folder_with_a_module_for_each_figure(paper):
    """So that a figure is added as one file: nothing else names it."""
    package = importlib.import_module(f"interp.papers.{paper}")
    numbers = []
    for path in sorted(Path(package.__path__[0]).glob("fig*.py")):
        module = importlib.import_module(f"{package.__name__}.{path.stem}")
        assert module.__all__ == ["FIGURE"], path
        assert module.FIGURE.paper == package.PAPER
        assert "fig" + module.FIGURE.label.lstrip(LETTERS) == path.stem
        numbers.append(module.FIGURE.label)
    assert sorted(figure.label for figure in figures_of(paper)) == sorted(numbers)
    assert len({label.rstrip("0123456789") for label in numbers}) == 1


def test_every_folder_is_a_paper_or_the_kit():
    folders = {path.parent.name for path in Path(papers.__path__[0]).glob("*/__init__.py")}
    assert folders == {*PAPERS, "kit"}


def test_a_figure_is_found_by_its_file_alone(tmp_path, monkeypatch):
    (tmp_path / "fig3.py").write_text("FIGURE = 'third'")
    (tmp_path / "fig20.py").write_text("FIGURE = 'last'")
    nanda = importlib.import_module("interp.papers.nanda")
    monkeypatch.setattr(nanda, "__path__", [*nanda.__path__, str(tmp_path)])
    found = figures_of("nanda")
    assert found[0].label == "N1"
    assert found[1:] == ("third", "last")


def test_the_written_table_has_the_claims_of_its_figures():
    """REPRODUCTIONS.md was written by these claims, intervals, titles and notes: whoever changes one writes it anew."""
    text = (Path(__file__).parent.parent / "REPRODUCTIONS.md").read_text()
    sections = re.findall(r"^### (\w+) · (.*?)$(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(sections) >= 39
    for label, title, section in sections:
        figure = figures()[label]
        assert title == figure.title
        assert figure.notes in section
        rows = re.findall(r"^\| (.*?) \| [^|]* \| [✓✗–] \w", section, re.MULTILINE)
        assert rows == [f"{claim.text.replace('|', chr(92) + '|')} | {claim.expected}" for claim in figure.claims]


def test_a_claim_that_excludes_nothing_is_refused():
    with pytest.raises(InvalidArgumentError, match="must exclude something"):
        Claim(text="anything goes", measure=float)
    with pytest.raises(InvalidArgumentError, match="must exclude something"):
        Claim(text="nothing goes", measure=float, at_least=2, at_most=1)


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.9, "did not hold"), (1.0, "held"), (2.0, "held"), (2.1, "did not hold"), (math.nan, "not")],
)
def test_a_claim_is_judged_by_its_interval(value, verdict):
    claim = Claim(text="x", measure=lambda data: float(data["x"]), at_least=1, at_most=2, unit="steps", needs="time")
    found = claim.judge(xr.Dataset({"x": value}))
    assert found.verdict.startswith(verdict)
    assert found.expected == "1 to 2 steps"
    assert found.reason == ("needs time" if math.isnan(value) else "")


def test_a_figure_is_computed_once_and_its_runs_trained_once(figure, tmp_path):
    _, computed = figure
    first = reproduce("T1", preset="toy", root=tmp_path, workers=1)
    assert [verdict.verdict for verdict in first.verdicts] == ["held", "did not hold", "not testable here"]
    assert first.about["seeds"] == 2
    assert "<html>" in (first.folder / "figure.html").read_text()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/run.json")}
    assert len(written) == 2
    again = reproduce("T1", preset="toy", root=tmp_path, workers=1)
    assert computed == ["toy"]
    assert [v.verdict for v in again.verdicts] == [v.verdict for v in first.verdicts]
    xr.testing.assert_identical(again.data, first.data)
    assert np.isnan(again.data["unknown"]).all()
    reproduce("T1", preset="toy", root=tmp_path, workers=1, again=True)
    assert computed == ["toy", "toy"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/run.json")} == written
    assert [found.figure.label for found in stored(tmp_path)] == ["T1"]
    assert stored(tmp_path, "paper") == []


def test_a_claim_that_was_changed_is_judged_anew(figure, tmp_path, monkeypatch):
    one, computed = figure
    reproduce("T1", preset="toy", root=tmp_path, workers=1)
    stricter = dataclasses.replace(one, claims=(dataclasses.replace(DELAY, at_most=0.001),))
    monkeypatch.setattr(running, "figures", lambda: {"T1": stricter})
    assert reproduce("T1", preset="toy", root=tmp_path, workers=1).verdicts[0].verdict == "did not hold"
    assert stored(tmp_path)[0].verdicts[0].verdict == "did not hold"
    assert len(computed) == 1  # its results are as they were
    needy = dataclasses.replace(DELAY, measure=lambda data: float(data["nothing"]))
    monkeypatch.setattr(running, "figures", lambda: {"T1": dataclasses.replace(one, claims=(needy,))})
    assert stored(tmp_path) == []


@pytest.mark.parametrize(
    ("found", "interval", "verdict", "measured"),
    [
        ((3.0, np.inf), {"at_least": 2}, "held", 3.0),
        ((1.0, np.inf), {"at_least": 2}, "not testable here", np.nan),
        ((-np.inf, 1.0), {"at_least": 2}, "did not hold", 1.0),
        ((3.0, np.inf), {"at_most": 2}, "did not hold", 3.0),
        ((-np.inf, 1.0), {"at_most": 2}, "held", 1.0),
        ((1.5, 1.8), {"at_least": 1, "at_most": 2}, "held", 1.5),
        ((0.5, 1.8), {"at_least": 1, "at_most": 2}, "not testable here", np.nan),
        ((np.inf, np.inf), {"at_most": 2}, "did not hold", np.inf),
    ],
)
def test_a_number_that_is_known_from_one_side_may_decide(found, interval, verdict, measured):
    got = Claim(text="", measure=lambda data: found, **interval).judge(xr.Dataset())
    assert got.verdict == verdict
    assert got.measured == pytest.approx(measured, nan_ok=True)


def test_a_figure_of_other_runs_is_computed_anew_and_not_shown_before(figure, tmp_path, monkeypatch):
    one, computed = figure
    reproduce("T1", preset="toy", root=tmp_path, workers=1)
    longer = dataclasses.replace(one, runs=lambda preset: [c.replace({"steps": 44}) for c in one.runs(preset)])
    monkeypatch.setattr(running, "figures", lambda: {"T1": longer})
    assert stored(tmp_path) == []
    reproduce("T1", preset="toy", root=tmp_path, workers=1)
    assert len(computed) == 2
    assert len(stored(tmp_path)) == 1


def test_a_run_that_fails_leaves_its_claims_undecided(figure, tmp_path, toy_config, monkeypatch):
    one, computed = figure
    diverging = dataclasses.replace(one, runs=lambda preset: [toy_config.replace({"optimizer.lr": 1e30})])
    monkeypatch.setattr(running, "figures", lambda: {"T1": diverging})
    found = reproduce("T1", preset="toy", root=tmp_path, workers=1)
    assert {verdict.verdict for verdict in found.verdicts} == {"not testable here"}
    assert "not a finite number" in found.verdicts[0].reason
    assert not computed
    assert stored(tmp_path) == []  # the next call tries again


def test_the_table_has_every_claim(figure, tmp_path):
    found = [reproduce("T1", preset="toy", root=tmp_path, workers=1)]
    text = table(found)
    assert "| the loss ends below 5 | <= 5 nats |" in text
    assert re.search(r"it ends above 100 \| >= 100 \| [\d.]+ \| ✗ did not hold", text)
    assert "| the norm falls | 0 to 1 | – | – not testable here (needs more steps) |" in text
    assert "In all: 3 claims: 1 held, 1 did not hold, 1 not testable here." in text
    assert "`interp reproduce T1 --preset toy`: preset toy, 2 seeds, 2 runs" in text
    assert counts([]) == "0 claims: "
    with pytest.raises(InvalidArgumentError, match="at least one reproduction"):
        table([])


def test_the_table_has_the_recipes_that_are_finished(figure, tmp_path, toy_config, monkeypatch):
    learned = toy_config.replace({"steps": 400, "task.train_fraction": 0.9, "optimizer.lr": 1e-2})
    recipes = {"learned": learned, "short": toy_config, "begun": toy_config.replace({"seed": 5})}
    for name in ("learned", "short"):
        interp.train(recipes[name], root=tmp_path, device="cpu")
    RunWriter.create(tmp_path / recipes["begun"].run_id, {"config": recipes["begun"].to_dict()}).close()
    entries = {name: Recipe(config, f"{name} summary", "") for name, config in recipes.items()}
    monkeypatch.setattr("interp.papers.kit.table.RECIPES", entries)
    trajs = finished_recipes(tmp_path)
    assert list(trajs) == ["learned", "short"]
    text = table([reproduce("T1", preset="toy", root=tmp_path, workers=1)], recipes=trajs)
    metrics = trajs["learned"].metrics.dropna("step", subset=["train_accuracy"])
    first = next(int(s) for s in metrics.step if (metrics.train_accuracy.sel(step=slice(s, None)) >= 0.99)[:6].all())
    assert f"| learned | learned summary | {first} |" in text
    assert "| short | short summary | – | – |" in text
    assert "Not run to the end here: begun." in text


def test_pictures_are_small_and_equal_ones_equal(figure, tmp_path):
    pytest.importorskip("kaleido")
    found = reproduce("T1", preset="toy", root=tmp_path, workers=1)
    (path,) = draw([found], tmp_path / "pictures").values()
    assert path.name == "T1.svg"
    assert 1000 < path.stat().st_size <= 60_000
    assert f"![T1]({tmp_path / 'pictures'}/T1.svg)" in table([found], str(tmp_path / "pictures"))
    assert draw([found], tmp_path / "again")["T1"].read_bytes() == path.read_bytes()
    coloured = go.Figure([go.Heatmap(z=[[1, 2], [3, 4]]), go.Scatter(y=[0, 1])])
    once, twice = (write_pictures({"x": coloured}, tmp_path / name)["x"].read_bytes() for name in ("once", "twice"))
    assert once == twice


def test_pictures_that_are_too_large_become_smaller_ones(figure, tmp_path):
    pytest.importorskip("kaleido")
    found = reproduce("T1", preset="toy", root=tmp_path, workers=1)
    from PIL import Image

    figures = {name: found.figure.picture(found.data) for name in ("one", "other")}
    figures["other"].add_heatmap(z=np.zeros((2, 2)))
    figures["other"].add_scatter(y=list(range(1000)), mode="markers")
    (tmp_path / "other.svg").write_text("an older one")
    paths = write_pictures(figures, tmp_path, largest=60_000)
    assert (paths["one"].suffix, paths["other"].suffix) == (".svg", ".png")
    with Image.open(paths["other"]) as picture:
        assert picture.mode == "P"
        assert picture.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    assert sorted(path.name for path in tmp_path.glob("o*.*")) == ["one.svg", "other.png"]
    assert write_pictures({}, tmp_path) == {}
    with pytest.raises(NotAvailableError, match="The picture of one, other is larger than 1,000 bytes"):
        write_pictures(figures, tmp_path / "tiny", largest=1000)


def test_wrong_names_are_answered_with_a_suggestion(tmp_path, capsys):
    with pytest.raises(UnknownNameError, match="There is no figure `K9`"):
        reproduce("K9", root=tmp_path)
    with pytest.raises(InvalidArgumentError, match="`preset` must be one of toy, laptop, paper; got 'huge'"):
        reproduce("K4", preset="huge", root=tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["reproduce", "K9", "--root", str(tmp_path)])
    assert left.value.code == 2
    assert "There is no figure `K9`" in capsys.readouterr().err


def test_the_command_prints_verdicts(figure, tmp_path, capsys, monkeypatch):
    main(["reproduce", "T1", "--preset", "toy", "--root", str(tmp_path), "--workers", "1"])
    shown = capsys.readouterr().out
    assert "held:                the loss ends below 5" in shown
    assert "3 claims: 1 held, 1 did not hold, 1 not testable here" in shown
    main(["reproduce"])
    assert "T1   Losses of two toy runs" in capsys.readouterr().out
    assert interp.load(next(tmp_path.glob("add7*"))).complete


def test_a_figure_of_ones_own_is_reproduced(figure, tmp_path):
    one, computed = figure
    mine = dataclasses.replace(one, label="mine", claims=(DELAY,))
    found = reproduce(mine, preset="toy", root=tmp_path, workers=1)
    assert [verdict.verdict for verdict in found.verdicts] == ["held"]
    assert reproduce(mine, preset="toy", root=tmp_path, workers=1).runs == found.runs
    assert computed == ["toy"]
    assert "### mine · Losses of two toy runs" in table([found])
    with pytest.raises(InvalidArgumentError, match="must not be the label of another figure; got 'T1'"):
        reproduce(dataclasses.replace(one, title="Another"), preset="toy", root=tmp_path)
