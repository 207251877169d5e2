"""The report is one file that asks for nothing, says what the run did, and cannot be made to do anything else."""

import base64
import json
import re
from collections import Counter

import numpy as np
import pytest
import xarray as xr
from plotly.offline import get_plotlyjs

import interp
from interp.config import Decoder, FeedForward, RunConfig, Sums, Symbolic
from interp.errors import InvalidArgumentError
from interp.milestones import Criterion, find, words
from interp.plots import PANELS, Panel, curve_panel
from interp.plots.curves import norm_curves
from interp.reporting.page import render, report
from interp.training.api import replay, train
from tests.browser.planted import EVENTS, KEYS, milestones, never_grokked, planted_run

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;{{ 7 * 7 }}"


def describe(data, metrics=None, config=None):
    return words.describe(find((data, metrics)), data, config)


def headline(data, metrics=None):
    return words.headline(find((data, metrics)), data)


def marks(data, metrics=None):
    return find((data, metrics)).marks


def small(**change):
    data, metrics = planted_run(p=11, checkpoints=12)
    found = milestones(data, metrics)
    arguments = {"title": "A run", "summary": headline(data, metrics), "events": EVENTS, "milestones": found} | change
    return render(arguments.pop("data", data), arguments.pop("metrics", metrics), **arguments)


def own(html):
    """Everything but plotly.js."""
    return html.replace(get_plotlyjs(), "")


def payload(html):
    return json.loads(re.search(r'<script type="application/json" id="payload">(.*?)</script>', html, re.S).group(1))


# --- one file that asks for nothing ---


def test_the_file_is_small_for_a_run_of_full_size():
    data, metrics = planted_run(p=113, checkpoints=400)
    html = render(data, metrics, title="Full size", events=EVENTS, milestones=milestones(data, metrics))
    assert len(html.encode()) < 8e6


def test_nothing_is_fetched():
    html = own(small())
    assert "default-src 'none'" in html
    assert not re.search(r'(src|href)\s*=\s*["\']?(https?:)?//', html, re.I)
    assert not re.search(r"<(link|iframe|object|embed|base|img)\b", html, re.I)
    assert "@import" not in html
    assert "url(" not in html


def test_plotly_js_is_inside_once():
    assert small().count(get_plotlyjs()[:200]) == 1


def test_upload_button_and_logo_are_off():
    assert "showSendToCloud: false, displaylogo: false, responsive: true" in small()


# --- hostile words ---


def test_hostile_text_stays_text():
    html = own(
        small(
            title=HOSTILE,
            summary=[(HOSTILE, HOSTILE, HOSTILE)],
            events=[(130, HOSTILE)],
            config={"task": {HOSTILE: HOSTILE}},
            provenance={"host": HOSTILE},
        )
    )
    assert "<img" not in html
    assert html.count("</script>") == 3
    assert "7 * 7" in html
    assert payload(html)["events"][0]["label"] == HOSTILE


def test_hostile_parameter_names_are_neutralised():
    data, _ = planted_run(p=11, checkpoints=12)
    data = data.assign_coords(parameter=[HOSTILE, *data["parameter"].values[1:]])
    found = payload(render(data, title="x"))["figures"]["parameters"]["data"][0]["name"]
    assert "<" not in found
    assert "&lt;img" in found


# --- the data that travel ---


def test_the_coordinates_survive_the_journey():
    data, _ = planted_run(p=11, checkpoints=12)
    sent = payload(render(data, title="x"))
    block = np.frombuffer(base64.b64decode(sent["coordinates"]["block"]), "<i2").reshape(8, 12, 11)
    want = data["embedding_coordinates"].transpose("component", "step", "token").values
    np.testing.assert_allclose(block * sent["coordinates"]["scale"], want, atol=sent["coordinates"]["scale"])
    power = np.frombuffer(base64.b64decode(sent["spectrum"]["block"]), "<f4").reshape(12, 5)
    np.testing.assert_allclose(power, data["embedding_power"].values, rtol=1e-6)


def test_a_last_step_in_a_corner_of_the_range_is_shown_in_its_own():
    data, _ = planted_run(p=11, checkpoints=12)
    assert payload(render(data, title="x"))["fit"] is False
    shrinking = data.assign(embedding_coordinates=data["embedding_coordinates"] * xr.where(data.step == 0, 1000, 1))
    assert payload(render(shrinking, title="x"))["fit"] is True
    assert 'id="fit" type="checkbox" checked' in own(render(shrinking, title="x"))


def test_each_pair_travels_with_its_own_ring():
    data, _ = planted_run()
    pairs = payload(render(data, title="x"))["pairs"]
    assert [pair["frequency"] for pair in pairs] == [17, 5, 41, 29]
    assert set(KEYS) == {pair["frequency"] for pair in pairs}
    assert all(pair["frequency"] * pair["stride"] % 113 == 1 for pair in pairs)


def test_long_metrics_are_thinned_and_keep_their_spikes():
    steps = np.arange(60_000)
    loss = np.ones(steps.size)
    loss[41_234] = 50.0
    metrics = xr.Dataset({"train_loss": ("step", loss), "test_loss": ("step", 2 * loss)}, {"step": steps})
    data = xr.Dataset({"weight_norm": ("step", [1.0, 2.0])}, {"step": [0, 59_999]})
    curve = payload(render(data, metrics, title="x"))["figures"]["loss"]["data"][0]["y"]
    values = np.frombuffer(base64.b64decode(curve["bdata"]), curve["dtype"])
    assert values.size < 5000
    assert values.max() == 50.0


def test_what_is_not_finite_travels_as_a_gap():
    data, metrics = planted_run(p=11, checkpoints=12)
    holes = data.copy(deep=True)
    for name, variable in holes.data_vars.items():
        if variable.dtype.kind == "f":
            holes[name] = variable.where(data["step"] < 4000, np.nan if "loss" in str(name) else np.inf)
    sent = payload(render(holes, metrics * np.nan, title="x"))
    block = np.frombuffer(base64.b64decode(sent["coordinates"]["block"]), "<i2").reshape(8, 12, 11)
    assert (block[:, -1] == -32768).all()
    assert sent["readouts"]["train_loss"][-1] is None


# --- panels come and go ---


def test_every_panel_is_there_when_everything_was_measured():
    ids = [panel["id"] for panel in payload(small())["panels"]]
    assert ids[:3] == ["circle", "spectrum", "accuracy"]
    learning = ["loss", "norm", "parameters", "mirrors"]
    circle = ["circularity", "partners", "angle", "rank", "parallelograms", "components"]
    frequencies = ["heat-embedding", "heat-logit", "heat-neuron", "heads", "gini"]
    mechanism = ["progress", "phases", "algorithm", "variance", "trig"]
    assert ids[3:] == learning + circle + frequencies + mechanism + ["collapse", "precision", "gradient", "update"]
    headings = re.findall(r'<h2 class="group" id="g-(\w+)">', small())
    assert headings == ["Learning", "Circle", "Frequencies", "Mechanism", "Numerics"]


def test_groups_have_panels_by_irrep():
    table = np.full((2, 3), 0.5)
    names = ("logit_similarity", "embedding_share", "unembedding_share", "hidden_share")
    data = xr.Dataset(
        {f"{name}_by_irrep": (("step", "irrep"), table) for name in names},
        {"step": [0, 10], "irrep": ["trivial", "sign", "standard"]},
    )
    ids = [panel["id"] for panel in payload(render(data, title="S3"))["panels"]]
    assert ids == [f"{name.replace('_', '-')}-by-irrep" for name in names]


def test_products_are_labelled_by_their_powers():
    data, _ = planted_run(p=11, checkpoints=3)
    powers = [1, 2, 4, 8, 5, 10, 9, 7, 3, 6]
    data = data.isel(token=slice(10)).assign_coords(token=powers)
    basis = "characters of the products mod 11, discrete logarithms to base 2"
    html = render(data.assign_attrs(basis=basis), title="x")
    sent = payload(html)
    assert sent["powers"] == [str(power) for power in powers]
    assert sent["figures"]["circle"]["data"][1]["text"] == sent["powers"]
    assert basis in sent["figures"]["spectrum"]["layout"]["xaxis"]["title"]["text"]
    assert own(html).count(f"Frequencies: {basis}.") == 4
    assert payload(small())["powers"] is None


def test_an_embedding_without_parallelograms_has_no_panel_of_them():
    data, _ = planted_run(p=11, checkpoints=3)
    ids = [panel["id"] for panel in payload(render(data.assign(rqi=data["rqi"] * 0), title="x"))["panels"]]
    assert "parallelograms" not in ids


def test_change_points_are_drawn_and_disagreement_is_said():
    data, metrics = planted_run()
    found = find((data, metrics)).boundaries
    assert set(found) == {"circuit_formation_end", "cleanup_end"}
    shapes = payload(render(data, metrics, title="x"))["figures"]["loss"]["layout"]["shapes"]
    drawn = {shape["name"]: shape for shape in shapes if shape["type"] == "rect"}
    for key, word in (("circuit_formation_end", "circuit formation"), ("cleanup_end", "cleanup")):
        bar = drawn[f"change: {word}"]
        assert (bar["x0"], bar["x1"]) == found[key].interval
        sentence = f"The end of {word} depends on the definition: step {found[key].step:,} by the shape"
        assert (sentence in " ".join(describe(data, metrics))) == (not found[key].agrees)


def test_a_short_run_has_phases_and_no_change_points():
    data = accuracies([0, *[1] * 14], [*[0] * 8, *[1] * 7], test_loss=("step", [5.0] * 8 + [0.01] * 7))
    found = find((data, None))
    assert found.phases.circuit_formation_end is not None
    assert found.boundaries == {}
    assert find((xr.Dataset(coords={"step": [0]}), None)).boundaries == {}


def test_the_table_of_key_frequencies_lists_what_a_criterion_names():
    flags = {"by_neuron": [True, False, False], "by_logit": [True, False, True], "by_embedding": [True, False, False]}
    numbers = {
        "neuron_cluster_size": [9, 0, 0],
        "logit_similarity": [0.5, 0.0, 0.01],
        "embedding_norm_over_median": [4.0, 1.0, 1.5],
        "votes": [3, 0, 1],
    }
    table = xr.Dataset({k: ("frequency", v) for k, v in (flags | numbers).items()}, {"frequency": [1, 2, 3]})
    html = own(small(agreement=table))
    rows = re.findall(
        r'<tr><th scope="row">(\d+)</th>(.*?)</tr>', html[html.index('class="keys"') :].split("</table>")[0]
    )
    assert [int(k) for k, _ in rows] == [1, 3]
    assert re.findall(r'<td class="(\w*)">([\d.]+)</td>', rows[1][1]) == [("", "0"), ("value", "0.010"), ("", "1.5")]
    assert "1 of 3" in rows[1][1]
    assert 'class="keys"' not in own(small())


# --- panels of one's own ---


def own_panel(id="margin", **fields):
    fields = {"group": "Learning", "needs": ["weight_norm"], "draw": lambda context: norm_curves(context.data)} | fields
    return Panel(id, **fields)


def ids(html):
    return [panel["id"] for panel in payload(html)["panels"]]


def test_an_entry_more_in_the_table_is_a_panel_more_in_the_report(monkeypatch):
    before = ids(small())
    at = before.index("heat-embedding")
    entry = own_panel("weight", title="Weight", note="Its norm.", group="Circle")
    monkeypatch.setattr("interp.reporting.page.PANELS", (*PANELS[:15], entry, *PANELS[15:]))
    html = small()
    assert ids(html) == [*before[:at], "weight", *before[at:]]
    assert '<h3 id="h-weight">Weight</h3>' in html
    assert '<p class="note" id="n-weight">Its norm.</p>' in html


def test_ones_own_panels_follow_or_replace_the_built_in_ones():
    before = ids(small())
    html = small(panels=[own_panel(), own_panel("loss", title="My loss")])
    last = before.index("mirrors") + 1  # of its group
    assert ids(html) == [*before[:last], "margin", *before[last:]]
    assert '<h3 id="h-loss">My loss</h3>' in html


def test_a_new_group_has_a_section_of_its_own():
    html = small(panels=[own_panel(group="Räume von mir")])
    assert ids(html)[-1] == "margin"
    assert '<h2 class="group" id="g-Räume-von-mir">Räume von mir</h2>' in html


def test_titles_and_notes_of_panels_cannot_become_markup():
    html = own(small(panels=[own_panel(title=HOSTILE, note=HOSTILE, method=lambda context: HOSTILE)]))
    assert "<img" not in html
    assert html.count("</script>") == 3
    assert html.count("&lt;img") == 4  # the summary of the planted run has none


def fails(context):
    raise ValueError(HOSTILE)


@pytest.mark.parametrize(
    ("panel", "reason"),
    [
        (own_panel(draw=fails), "ValueError: &lt;/script&gt;&lt;img"),
        (own_panel(note=fails), "ValueError: &lt;/script&gt;&lt;img"),
        (own_panel(draw=lambda context: None), "`Panel.draw` must return a plotly Figure; got None."),
        (own_panel(needs=["weight_norm", "nothing"]), "there is no `nothing`."),
        (own_panel("loss", draw=fails), "ValueError: &lt;/script&gt;&lt;img"),
    ],
)
def test_a_panel_that_fails_is_left_out_and_the_others_are_shown(panel, reason):
    with pytest.warns(UserWarning, match=f"The panel “{panel.id}” was left out: "):
        html = own(small(panels=[panel]))
    (line,) = re.findall(r'<p class="note omitted">(.*?)</p>', html)
    assert line.startswith(f"The panel “{panel.id}” was left out: {reason}")
    assert ids(html) == [name for name in ids(small()) if name != panel.id]


def test_panels_that_collide_with_the_page_are_refused():
    with pytest.raises(InvalidArgumentError, match="an id that the page itself uses; got `slider`"):
        small(panels=[own_panel("slider")])
    with pytest.raises(InvalidArgumentError, match="one panel of kind circle at most; got `circle` and `margin`"):
        small(panels=[own_panel(kind="circle")])


def test_a_panel_alone_is_no_list_but_one_need_is_enough(toy_run, as_users_run_it):
    ratio = interp.Measure("ratio", len)
    for panels in (own_panel(), Panel, None):
        with pytest.raises(InvalidArgumentError, match=r"`panels` must be a list of panels, such as \[panel\]; got "):
            report(toy_run, panels=panels)
    for one in ("test_loss", ratio, max):
        assert own_panel(needs=one).needs == (one,)
        assert len(curve_panel("one", one, title="x", y="x").variables) == 1
    with pytest.raises(InvalidArgumentError, match=r"`Panel\.needs` must hold names"):
        own_panel(needs=3)


def test_a_circle_can_be_replaced():
    html = small(panels=[own_panel("circle", group="", kind="still")])
    assert ids(html)[0] == "circle"
    assert 'id="pair"' not in own(html)


def test_measures_that_a_panel_needs_are_measured(toy_run, tmp_path):
    def readout(model):
        return model.unembed.W_U.detach().abs().max()

    def broken(model):
        raise RuntimeError("no such thing")

    data = interp.measure(toy_run, ["weight_norm"], steps=slice(0, 20))
    panels = [
        curve_panel("readout", {readout: "W_U"}, title="Largest entry", y="entry"),
        curve_panel("sparsity", ["gini_embedding"], title="x", y="x"),
        curve_panel("broken", [broken], title="x", y="x"),
    ]
    with pytest.warns(UserWarning, match="left out") as warned:
        path = report(toy_run, tmp_path / "report.html", data=data, panels=panels)
    sent = payload(path.read_text())
    assert [panel["id"] for panel in sent["panels"]][-2:] == ["readout", "sparsity"]
    values = np.frombuffer(base64.b64decode(sent["figures"]["readout"]["data"][0]["y"]["bdata"]), "f4")
    assert values.size == data.sizes["step"]
    assert values[-1] == pytest.approx(float(readout(toy_run.model(20))), rel=1e-6)
    (line,) = [str(warning.message) for warning in warned if "broken" in str(warning.message)]
    assert "RuntimeError: no such thing" in line


FAMILIES = sorted({str(name).split("_")[0] for name in planted_run(p=11, checkpoints=3)[0].data_vars})


@pytest.mark.parametrize("family", FAMILIES)
def test_variables_come_and_go(family):
    data, metrics = planted_run(p=11, checkpoints=3)
    own = [name for name in data.data_vars if str(name).startswith(family)]
    alone = render(data[own], title="These alone")
    assert all(f'id="{panel["id"]}"' in alone for panel in payload(alone)["panels"])
    without = payload(render(data.drop_vars(own), metrics, title="All but these"))
    assert len(without["panels"]) >= 8


def test_a_run_with_one_checkpoint_and_one_without_any_measure():
    data, metrics = planted_run(p=11, checkpoints=3)
    assert 'max="0"' in render(data.isel(step=[0]), metrics.isel(step=[0]), title="Just begun")
    assert "nothing that this report can draw" in render(xr.Dataset(coords={"step": [0, 1]}), title="Empty")


@pytest.mark.parametrize("data", [xr.Dataset(), xr.Dataset({"a": ("step", [1.0])}), xr.Dataset(coords={"step": []})])
def test_data_without_steps_are_refused(data):
    with pytest.raises(InvalidArgumentError, match="`data` must have"):
        render(data, title="x")


# --- what the run did, in words ---


def test_a_run_that_grokked():
    said = describe(*planted_run(), {"steps": 5187})
    assert re.match(
        r"Train accuracy passed 99 % at step \d+, test accuracy 95 % at step 1,1\d\d: .* 1,0\d\d steps later\.", said[0]
    )
    assert said[1] == "Key frequencies: 5, 17, 29, 41 (read from the logits at the last step)."
    assert said[2] == "Circularity of the embedding is 0.98 (up from 0.06)."
    assert len(said) == 3


def test_a_run_that_never_grokked():
    said = " ".join(describe(*never_grokked()))
    assert "test accuracy is 0.02 at step 900: the run has memorised and not generalised." in said
    assert "No key frequency stands out" in said
    assert "No circle has formed." in said
    assert "later" not in said


def accuracies(train, test, **more):
    return xr.Dataset(
        {"train_accuracy": ("step", train), "test_accuracy": ("step", test), **more},
        {"step": 10 * np.arange(len(train))},
    )


@pytest.mark.parametrize(
    ("data", "config", "sentence"),
    [
        (
            accuracies([0, 0.5, 0.6], [0, 0.1, 0.2]),
            {},
            "By step 20 accuracy has not reached 99 % (train 0.60) or 95 % (test 0.20).",
        ),
        (
            accuracies([0, 1, 1], [0, 1, 1]),
            {},
            "Test accuracy passed 95 % at step 10, no later than train accuracy 99 % (step 10).",
        ),
        (accuracies([0, *[1] * 8], [0, *[1] * 7, 0.4]), {}, "Test accuracy has since fallen to 0.40."),
        (accuracies([0, 1, 1], [0, 0, 1]), {"steps": 50}, "The run is at step 20 of 50; all this may change."),
        (accuracies([0, 1, 1], [np.nan] * 3).drop_vars("test_accuracy"), {}, "Train accuracy passed 99 % at step 10."),
        (
            accuracies([0, 1, 1], [0, 0, 1], train_loss=("step", [1.0, 0.1, np.nan])),
            {},
            "The last train loss is not a finite number: the run has diverged.",
        ),
    ],
)
def test_other_runs(data, config, sentence):
    assert sentence in describe(data, None, config)


def test_a_curve_that_begins_above_the_threshold_says_nothing_of_when_it_passed():
    late = accuracies([1] * 8, [0.5, 0.9, *[1] * 6]).assign_coords(step=range(250, 330, 10))
    said = describe(late)[0]
    assert said == (
        "Train accuracy is above 99 % from the first evaluation here, step 250; test accuracy passed 95 % at step 270."
    )
    assert [row[1] for row in headline(late) if "accuracy" in row[0]] == ["before step 250", "step 270"]
    assert "Delay" not in [row[0] for row in headline(late)]
    assert marks(late) == [(270, "test accuracy reaches 95 %")]


def test_a_run_that_loses_its_solution_again_says_so():
    once = accuracies([1] * 20, [0, *[1] * 8, 0.5, *[1] * 10])
    assert "After that, test accuracy collapsed once at step 90 (lowest value 0.50)." in describe(once)
    train = [*[1] * 9, 0.8, *[1] * 10]
    assert "(lowest value 0.50), and so did train accuracy." in " ".join(
        describe(accuracies(train, [0, *[1] * 8, 0.5, *[1] * 10]))
    )
    twice = accuracies(train, [0, *[1] * 8, 0.5, 1, 1, 0.25, 0.5, *[1] * 6])
    sentence = "After that, test accuracy collapsed 2 times, first at step 90 (lowest value 0.25)"
    assert f"{sentence}; train accuracy did in 1 of them." in describe(twice)
    assert not any("collapsed" in said for said in describe(accuracies([1] * 20, [0, 1, 0.5, *[1] * 17])))


def test_a_run_without_held_out_pairs_has_no_test_accuracy():
    data = accuracies([0, *[1] * 6], [0, *[1] * 6]).assign_attrs(held_out=0)
    assert describe(data) == [
        "Train accuracy passed 99 % at step 10.",
        "No pair is known to have been held out: accuracy is over all of them.",
    ]
    assert "Test" not in " ".join(row[0] for row in headline(data))
    assert marks(data) == [(10, "train accuracy reaches 99 %")]


def test_the_report_of_a_replay_speaks_of_its_stretch(toy_run, tmp_path):
    zoom = replay(toy_run, 18, 30)
    text = report(zoom.folder, tmp_path / "zoom.html").read_text()
    assert f"<h1>{toy_run.folder.name}, steps 18 to 30</h1>" in text
    assert "all this may change" not in text


def test_nothing_is_said_of_what_was_not_measured():
    data = xr.Dataset({"weight_norm": ("step", [1.0, 2.0])}, {"step": [0, 10]})
    assert describe(data) == []
    assert [row[0] for row in headline(data)] == ["Last step", "Weight norm"]
    assert marks(data) == []


def test_milestones_are_the_first_sustained_steps_at_their_levels():
    data = accuracies([0, 0.99, *[1] * 6], [0, 0.94, *[0.95] * 6])
    assert marks(data) == [(10, "train accuracy reaches 99 %"), (20, "test accuracy reaches 95 %")]


def test_an_accuracy_below_one_is_never_rounded_up_to_one():
    data = accuracies([0, 1, 1], [0, 0.99, 0.9998])
    assert "now 0.999" in next(row for row in headline(data) if row[0].startswith("Test accuracy"))[2]


@pytest.mark.parametrize(("logged", "step"), [(3, 20), (4, 40)])
def test_the_log_counts_unless_checkpoints_are_more_than_twice_as_many(logged, step):
    data = accuracies([0, *[1] * 7], [0, 0, *[1] * 6])
    accuracy = np.full(9, np.nan)
    accuracy[[0, 2, 4, 8][:logged]] = [0, 0, 1, 1][:logged]
    log = xr.Dataset({"test_accuracy": ("step", accuracy)}, {"step": range(0, 90, 10)})
    found = find((data, log), generalised=Criterion(0.95, hold=1 if logged == 4 else 5))
    assert found.marks[1] == (step, "test accuracy reaches 95 %")


def test_many_key_frequencies_are_not_all_listed():
    flags = xr.DataArray(np.ones((1, 20), dtype=bool), dims=("step", "frequency"))
    data = xr.Dataset({"key_frequency_logit": flags}, {"step": [0], "frequency": range(1, 21)})
    assert "10, 11, 12 and 8 more" in describe(data)[0]


def test_definitions_that_measures_carry_are_shown():
    data, _ = planted_run(p=11, checkpoints=3)
    data["weight_norm"].attrs["long_name"] = "L2 norm of <all> parameters"
    assert "L2 norm of &lt;all&gt; parameters" in render(data, title="x")


# --- from a run ---


def test_a_trained_run_has_a_report(tmp_path):
    config = RunConfig().replace({"task.p": 5, "model.d_model": 8, "model.d_mlp": 8, "steps": 6})
    traj = train(config, root=tmp_path)
    path = report(traj)
    assert path == traj.folder / "report.html"
    html = path.read_text(encoding="utf-8")
    assert {"circle", "spectrum", "accuracy", "loss"} <= {panel["id"] for panel in payload(html)["panels"]}
    assert {"heads", "phases", "collapse", "gradient", "update"} <= {panel["id"] for panel in payload(html)["panels"]}
    assert "task.p" in html
    assert report(traj, tmp_path / "other.html", title="Named").read_text(encoding="utf-8").count("<h1>Named</h1>") == 1


CLOSING = {
    "task": Symbolic(p=5, closing=True),
    "model": Decoder(d_model=16, n_heads=2, d_mlp=16),
    "save.weights": "every(1)",  # as often as is logged
}
CODES = {"task": Sums(p=6, codes=7), "model": FeedForward(d_model=4, d_hidden=(8,), combine="sum")}


@pytest.mark.parametrize(
    ("change", "words"),
    [(CLOSING, "cross-entropy (nats), mean of answer and closing token"), (CODES, "mean squared error of the codes")],
)
def test_losses_of_another_kind_are_called_so_and_not_mixed_with_others(change, words, tmp_path):
    """What is logged is the loss that is minimised, of two tokens or of codes; what is measured that of the answers."""
    traj = train(RunConfig().replace({"steps": 12, "log.test": "every(2)", **change}), root=tmp_path, device="cpu")
    data, metrics = interp.measure(traj), traj.metrics
    figure = interp.plots.loss_curves(data, metrics)
    assert figure.layout.yaxis.title.text == words.partition(",")[0]  # the rest is said below
    curves = {trace.name: trace.y for trace in figure.data}
    assert set(curves) == {"train", "test"}
    np.testing.assert_allclose(curves["train"], metrics.train_loss, rtol=1e-6)
    (row,) = [row for row in headline(data, metrics) if row[0] == "Test loss"]
    assert row[1:] == (f"{float(metrics.test_loss[-1]):#.3g}", f"{words} at the last step")
    html = report(traj, tmp_path / "report.html").read_text()
    assert f"{words[0].upper()}{words[1:]}." in html
    shown = payload(html)["readouts"]["test_loss"]
    assert shown[-1] == pytest.approx(float(metrics.test_loss[-1]), rel=1e-5)
    if change is CLOSING:
        assert not np.allclose(data.test_loss[-1], metrics.test_loss[-1], rtol=0.01)
    else:
        assert not {"gradient_symmetricity", "test_loss"} & set(data)


def test_losses_of_answers_are_cross_entropies(toy_run):
    assert "loss" not in toy_run.metrics.attrs


def test_a_report_finds_the_milestones_once(toy_run, tmp_path, monkeypatch):
    """Neither the phases nor the change points are sought again by a headline, a band, a line or a sentence."""
    from interp.milestones import changepoints, finding, phases

    _, metrics = planted_run(p=11, checkpoints=3)
    monkeypatch.setattr(type(toy_run), "metrics", metrics)
    calls = Counter()

    def count(module, name):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **named: calls.update([name]) or real(*given, **named))

    count(finding, "phase_lines")
    count(phases, "phase_lines")
    count(changepoints, "change_points")
    text = report(toy_run, tmp_path / "report.html").read_text()
    assert calls == {"phase_lines": 1, "change_points": 1}
    assert [band["word"] for band in payload(text)["bands"]] == ["memorisation", "circuit formation", "cleanup"]
