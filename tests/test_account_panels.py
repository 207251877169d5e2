"""Figures of an account show what was measured, and a report asks for them by name, as it says what they cost."""

import base64
import json
import re

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import pytest
import xarray as xr

import interp
from interp import plots
from interp.analysis.catalogue import MEASURES
from interp.config import FeedForward, RunConfig
from interp.errors import InvalidArgumentError, UnknownNameError
from interp.plots import Panel, PanelContext
from interp.plots.catalogue import PANELS, _birth_note, named_panels
from interp.plots.style import step_axis
from interp.reporting import cards
from interp.reporting.scrubber import scrubber
from interp.training.api import train

IDS = ["sentences", "births", "margins", "head-ablations", "attention"]


@pytest.fixture(scope="module")
def explained(toy_run):
    """An account with two keys, which were named: the network has hardly begun to learn."""
    return interp.explain(toy_run, keys=[1, 3], permutations=2)


@pytest.fixture(scope="module")
def page(toy_run, explained, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    return interp.report(toy_run, path, explanation=explained).read_text()


def payload(html):
    return json.loads(re.search(r'<script type="application/json" id="payload">(.*?)</script>', html, re.S).group(1))


def maps(sent, id):
    """Heat maps [step, pixel] as the page's script decodes them."""
    found = sent["maps"][id]
    whole = np.frombuffer(base64.b64decode(found["block"]), "<i2").reshape(len(found["steps"]), -1)
    return np.where(whole == -32768, np.nan, whole * found["scale"]), found


# --- figures ---


def test_each_sentence_has_its_scores_above_those_of_its_control(explained):
    fig = plots.sentence_bars(explained)
    account, control = fig.data[0::2], fig.data[1::2]
    assert len(account) == len(control) == 4
    for i, sentence in enumerate(explained.sentences):
        assert fig.layout.yaxis.ticktext[i].startswith("✓" if sentence.holds else "✗")
        assert "".join(fig.layout.yaxis.ticktext[i][2:].split("<br>")).replace(" ", "") == sentence.text.replace(
            " ", ""
        )
        for bars, one in ((account, sentence), (control, sentence.null)):
            scores = [one.explained, *(getattr(s, "accuracy", None) for s in (one.alone, one.without, one.resampled))]
            np.testing.assert_allclose([bar.x[i] for bar in bars], [np.nan if s is None else s for s in scores])
    assert explained.verdict in fig.layout.title.subtitle.text
    assert f"accuracy at least {explained.certificate.accuracy:.4f}" in fig.layout.title.subtitle.text.replace(
        "<br>", " "
    )


def test_the_whiskers_reach_from_the_smallest_to_the_largest_accuracy(explained):
    bars = plots.sentence_bars(explained).data[6]
    whole = [sentence.id for sentence in explained.sentences].index("whole")
    score = explained.sentence("whole").resampled
    assert bars.x[whole] + bars.error_x.array[whole] == pytest.approx(score.high)
    assert bars.x[whole] - bars.error_x.arrayminus[whole] == pytest.approx(score.low)


def test_births_are_marked_on_their_curves(explained):
    timeline = explained.timeline
    fig = plots.birth_curves(timeline, axis="linear")
    marks = [trace for trace in fig.data if trace.name == "birth"]
    born = [
        (step, float(timeline[name].sel(step=step, key=key)))
        for name, by_key in explained.births.items()
        for key, step in by_key.items()
        if step is not None
    ]
    assert born
    np.testing.assert_allclose(sorted((mark.x[0], mark.y[0]) for mark in marks), sorted(born), rtol=1e-6)
    lines = {trace.name: trace for trace in fig.data if trace.mode == "lines"}
    for name in ("certified_accuracy", "test_accuracy"):
        np.testing.assert_allclose(lines[name.replace("_", " ")].y, timeline[name].values, rtol=1e-6)


def test_a_timeline_without_keys_has_accuracies_alone(explained):
    fig = plots.birth_curves(explained.timeline.drop_dims("key"))
    assert [trace.name for trace in fig.data] == ["certified accuracy", "test accuracy", "train accuracy"]


def test_margins_stand_at_their_pair_and_change_colour_at_0(explained):
    margin = explained.certificate.margin
    fig = plots.margin_map(xr.Dataset({"certified_margin": (("step", "pair"), [margin.ravel()])}, {"step": [40]}))
    np.testing.assert_allclose(fig.data[0].z, explained.certificate.margin, rtol=1e-6)
    assert fig.data[0].zmin == -fig.data[0].zmax
    below, above = (colour for place, colour in fig.data[0].colorscale if 0.4 < place < 0.6)
    assert below != above
    assert f"{int(explained.certificate.right.sum()):,} of 49 pairs" in fig.layout.title.text


def test_pairs_without_an_answer_are_blank_and_not_counted():
    data = xr.Dataset({"certified_margin": (("step", "pair"), [[1.0, np.nan, -1.0, 2.0]])}, {"step": [3]})
    fig = plots.margin_map(data)
    assert np.isnan(fig.data[0].z[0, 1])
    assert "2 of 3 pairs" in fig.layout.title.text


def test_patterns_are_those_of_the_network(toy_run):
    step = int(toy_run.steps[2])
    data = interp.measure(toy_run, ["attention_pattern"], steps=[step], cache=False)
    model = toy_run.model(step)
    _, cache = model.run_with_cache(toy_run.task.tokens)
    fig = plots.attention_maps(data, step)
    for head, trace in enumerate(fig.data):
        for a, b in ((0, 1), (5, 2)):  # a upwards, b to the right
            assert trace.z[a][b] == pytest.approx(cache[model.pattern][a * 7 + b, head, -1, 0].item(), abs=1e-6)


def test_the_loss_without_each_head_is_drawn_beside_that_of_all(toy_run):
    data = interp.measure(toy_run, ["head_ablation_loss", "all_loss"], cache=False)
    *heads, every = plots.head_ablation_curves(data).data
    for i, trace in enumerate(heads):
        np.testing.assert_allclose(trace.y, data["head_ablation_loss"].isel(head=i), rtol=1e-6)
    np.testing.assert_allclose(every.y, data["all_loss"], rtol=1e-6)


def test_a_step_that_was_not_measured_is_refused(explained):
    with pytest.raises(InvalidArgumentError, match="the nearest is 40"):
        plots.margin_map(explained.timeline, 39)


def test_the_birth_note_says_where_proofs_lag(explained):
    curves = {"certified_accuracy": ("step", [0.1, 0.2, 0.9]), "test_accuracy": ("step", [0.1, 0.8, 0.9])}
    note = _birth_note(xr.Dataset(curves, {"step": [0, 10, 20]}))
    assert note.endswith("furthest below test accuracy at step 10, 0.20 and 0.80.")


def test_both_lists_of_keys_and_the_rule_of_the_verdict_are_named(page, explained):
    assert "other panels call key what two of these criteria name" in page
    assert explained.lines()[-1] == f"Verdict: {explained.rule}"
    assert "at least 0.95 of the accuracy is certified" in explained._repr_html_()


def test_panels_that_mark_other_keys_name_their_criterion(toy_run, explained):
    """Spectrum, heat maps and heads mark keys by two of three criteria; those of the account are others."""
    data = interp.measure(toy_run, cache=False)
    axis = step_axis(data["step"].values)
    by_id = {panel.id: panel for panel in PANELS}

    def note(id, explanation, keys=(2,)):
        measured = data.assign_attrs(key_frequencies=list(keys))
        return by_id[id].note(PanelContext(measured, axis=axis, explanation=explanation))

    for id in ("spectrum", "heat-embedding", "heat-logit", "heat-neuron", "heads"):
        criterion = "Key here, by two of three criteria: 2; of the account: 1, 3."
        assert note(id, explained).endswith(criterion)
        assert criterion not in note(id, None)
        assert "Key here" not in note(id, explained, keys=(1, 3))
    assert "more than 85% of its variance on one frequency" in by_id["phases"].note


# --- names ---


def test_explain_names_all_panels_on_request():
    assert [panel.id for panel in named_panels(["explain"])] == IDS
    assert [panel.id for panel in named_panels(["margins", "explain"])] == [
        "margins",
        *(i for i in IDS if i != "margins"),
    ]
    assert all(any(MEASURES[name].opt_in for name in panel.variables) for panel in plots.ON_REQUEST if panel.needs)


def test_an_unknown_name_is_answered_with_the_nearest(toy_run, tmp_path):
    with pytest.raises(UnknownNameError, match="margins"):
        interp.report(toy_run, tmp_path / "report.html", panels=["margin"])


# --- the report ---


def test_a_report_has_them_where_they_are_asked_for(page, toy_run, tmp_path):
    found = [panel["id"] for panel in payload(page)["panels"]]
    assert [one for one in found if one in IDS] == IDS
    plain = payload(interp.report(toy_run, tmp_path / "report.html").read_text())
    assert not {panel["id"] for panel in plain["panels"]} & {*IDS}
    assert plain["maps"] == {}


def test_the_verdict_and_the_certificate_stand_above_the_sentences(page, explained):
    (heading,) = re.findall(r'<h3 id="h-sentences">(.*?)</h3>', page)
    assert f"{explained.verdict}. Certificate (rank 4): accuracy at least" in heading


def test_maps_of_every_step_survive_the_journey(page, toy_run, explained):
    sent = payload(page)
    values, found = maps(sent, "margins")
    assert found["steps"] == [int(step) for step in toy_run.steps]
    assert found["shapes"] == [[7, 7]]
    np.testing.assert_allclose(values, explained.timeline["certified_margin"].values, atol=found["scale"])
    values, found = maps(sent, "attention")
    assert found["shapes"] == [[7, 7]] * 2
    want = interp.measure(toy_run, ["attention_pattern"], cache=False)["attention_pattern"]
    np.testing.assert_allclose(values.reshape(len(found["steps"]), 2, 49), want.values, atol=found["scale"])


def test_maps_are_bounded_in_size(toy_run, explained, tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "MAP_BYTES", 3 * 2 * 49)
    sent = payload(interp.report(toy_run, tmp_path / "r.html", panels=["margins"], explanation=explained).read_text())
    assert sent["maps"]["margins"]["steps"] == [0, 20, 40]
    assert sent["maps"]["attention"]["steps"] == [0, 40]  # two at least


def test_what_a_run_does_not_admit_is_left_out(tmp_path):
    config = RunConfig(
        task=interp.config.Modular(p=7, train_fraction=0.6, encoding="operands"),
        model=FeedForward(d_model=8, d_hidden=(16,)),
        steps=8,
    )
    traj = train(config, root=tmp_path)
    html = interp.report(traj, panels=["explain"]).read_text()
    assert {panel["id"] for panel in payload(html)["panels"]} & {*IDS} >= {"sentences", "margins"}
    assert 'id="attention"' not in html
    assert "was left out" not in html
    with pytest.warns(UserWarning, match="“attention” was left out"):  # which was asked for by its own name
        interp.report(traj, panels=["attention"])


def test_a_run_without_an_account_says_why(tmp_path):
    small = {"task.p": 5, "task.operation": "2x2+3xy-y", "model.d_model": 8, "model.d_mlp": 8, "steps": 4}
    traj = train(RunConfig().replace(small), root=tmp_path)
    with pytest.warns(UserWarning, match="“sentences” was left out: An account needs an operation"):
        html = interp.report(traj, panels=["explain"]).read_text()
    assert html.count("was left out") == 1


def test_a_map_needs_a_heat_map(toy_run, tmp_path):
    panel = Panel("flat-map", kind="map", draw=lambda context: go.Figure())
    with pytest.warns(UserWarning, match="must have a heat map"):
        interp.report(toy_run, tmp_path / "report.html", panels=[panel])


def test_a_map_of_ones_own_follows_the_slider_at_every_step(toy_run, tmp_path):
    def draw(context):
        i = int(np.flatnonzero(context.data["step"] == (context.step or 40))[0])
        return go.Figure(go.Heatmap(z=np.full((2, 3), i)))

    html = interp.report(
        toy_run, tmp_path / "report.html", panels=[Panel("own-map", kind="map", draw=draw)]
    ).read_text()
    values, found = maps(payload(html), "own-map")
    np.testing.assert_allclose(values[1:, 0], np.arange(1, len(toy_run.steps)), atol=found["scale"])


def test_the_nearest_measured_step_is_shown(explained):
    sparse = explained.timeline.isel(step=[0, 5, 10])
    context = PanelContext(xr.Dataset(), axis=step_axis([0, 40]), sparse=sparse, step=23)
    assert context.sparse_step == 20


# --- the scrubber ---


def descendants(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from descendants(child)


def test_the_scrubber_moves_maps_and_cursors(toy_run):
    box = scrubber(toy_run, panels=["margins", "attention", "head-ablations"])
    figures = [widget for widget in descendants(box) if isinstance(widget, go.FigureWidget)]
    (margins,) = [fig for fig in figures if fig.layout.title.text.startswith("Certified margins")]
    (attention,) = [fig for fig in figures if fig.layout.title.text.startswith("Attention")]
    (heads,) = [fig for fig in figures if fig.layout.title.text.startswith("Loss without")]
    before = np.array(attention.data[1].z)
    (slider,) = [widget for widget in descendants(box) if isinstance(widget, ipywidgets.IntSlider)]
    slider.value = 3
    step = int(toy_run.steps[3])
    data = interp.measure(toy_run, ["certified_margin", "attention_pattern"], steps=[step])
    np.testing.assert_allclose(margins.data[0].z, data["certified_margin"].values.reshape(7, 7), rtol=1e-6)
    np.testing.assert_allclose(attention.data[1].z, data["attention_pattern"].values[0, 1].reshape(7, 7), rtol=1e-6)
    assert not np.allclose(before, attention.data[1].z)
    assert [shape.x0 for shape in heads.layout.shapes if shape.name == "cursor"] == [step]
    assert margins.layout.title.text.startswith(f"Certified margins, step {step}:")
