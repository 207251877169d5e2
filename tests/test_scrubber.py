"""Moving the scrubber's slider moves every figure; no browser is needed for that."""

import sys

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import pytest

import interp
from interp.errors import InvalidArgumentError, NotAvailableError
from interp.plots import PANELS, Panel, curve_panel, neuron_phases
from interp.plots.structure import component_pairs
from interp.reporting.scrubber import scrubber


@pytest.fixture(scope="module")
def data(toy_run):
    return interp.measure(toy_run, cache=False)


@pytest.fixture
def box(toy_run, data):
    return scrubber(toy_run, data)


def descendants(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from descendants(child)


def the(box, kind, which=0):
    return [widget for widget in descendants(box) if isinstance(widget, kind)][which]


def slider(box):
    return the(box, ipywidgets.IntSlider)


def figures(box):
    """By the first words of their titles."""
    return {fig.layout.title.text.split()[0]: fig for fig in descendants(box) if isinstance(fig, go.FigureWidget)}


def cursor(fig):
    (line,) = [shape for shape in fig.layout.shapes if shape.name == "cursor"]
    assert line.x0 == line.x1
    return line.x0


def test_it_starts_at_the_last_checkpoint(box, data):
    assert sorted(figures(box)) == ["Accuracy", "Fourier", "Loss", "Token"]
    assert slider(box).value == data.sizes["step"] - 1
    assert [cursor(figures(box)[name]) for name in ("Accuracy", "Loss")] == [40, 40]


@pytest.mark.parametrize("position", [0, 3])
def test_the_slider_moves_circle_spectrum_and_cursors(box, data, position):
    slider(box).value = position
    now, shown = data.isel(step=position), figures(box)
    step = int(now["step"])
    points = shown["Token"].data[1]
    xy = now["embedding_coordinates"].sel(component=[1, 2]).values
    np.testing.assert_allclose(np.stack([points.x, points.y], axis=1), xy, rtol=1e-6)
    np.testing.assert_allclose(shown["Fourier"].data[0].y, now["embedding_power"].values, rtol=1e-6)
    assert shown["Token"].layout.title.text.endswith(f"step {step}")
    assert shown["Fourier"].layout.title.text.endswith(f"step {step}")
    assert the(box, ipywidgets.Label).value == f"step {step}"
    for name in ("Accuracy", "Loss"):
        x = cursor(shown[name])
        assert x == step if step else 0 < x < 2  # 0 has its place left of the first update


def test_the_curves_themselves_stay(box):
    curve = figures(box)["Loss"].data[0]
    before = np.array(curve.y)
    slider(box).value = 0
    np.testing.assert_array_equal(curve.y, before)


def test_another_pair_of_components(box, data):
    chosen = the(box, ipywidgets.Dropdown)
    assert [pair for _, pair in chosen.options] == component_pairs(data)
    slider(box).value = 2
    chosen.value = (3, 4)
    circle = figures(box)["Token"]
    np.testing.assert_allclose(circle.data[1].x, data["embedding_coordinates"].isel(step=2).sel(component=3), rtol=1e-6)
    assert circle.layout.title.text.startswith("Token embeddings on PC 3–4")
    assert circle.layout.yaxis.title.text == "PC 4"


def test_the_play_button_drives_the_same_positions(box):
    play = the(box, ipywidgets.Play)
    assert (play.min, play.max) == (slider(box).min, slider(box).max)


def test_data_are_measured_where_none_are_given(toy_run):
    assert "Fourier" in figures(scrubber(toy_run))


def test_what_is_missing_is_left_out(toy_run, data):
    box = scrubber(toy_run, data[["embedding_coordinates"]])
    assert sorted(figures(box)) == ["Accuracy", "Loss", "Token"]  # curves are in the metrics
    slider(box).value = 1


def test_further_panels_stand_below_and_move(toy_run, data):
    def largest(model):
        return model.unembed.W_U.detach().abs().max()

    phases = next(panel for panel in PANELS if panel.id == "phases")
    box = scrubber(toy_run, data, panels=[phases, curve_panel("largest", [largest], title="Readout", y="entry")])
    shown = figures(box)
    assert sorted(shown) == ["Accuracy", "Fourier", "Loss", "Phases", "Readout", "Token"]
    assert cursor(shown["Readout"]) == 40
    slider(box).value = 3
    assert cursor(shown["Readout"]) == 12
    assert shown["Phases"].layout.title.text.endswith("step 12")
    assert len(shown["Phases"].data) == len(neuron_phases(data, 12).data)
    with pytest.raises(InvalidArgumentError, match="what the panel `gap` needs: There is no measure `gap`"):
        scrubber(toy_run, data, panels=[Panel("gap", needs=["gap"], draw=lambda context: go.Figure())])


def test_what_it_cannot_do_without(toy_run, data):
    with pytest.raises(InvalidArgumentError, match="embedding_coordinates"):
        scrubber(toy_run, data[["embedding_power"]])
    with pytest.raises(InvalidArgumentError, match="at least two components"):
        scrubber(toy_run, data[["embedding_coordinates"]].isel(component=[0]))


@pytest.mark.parametrize("package", ["ipywidgets", "anywidget"])
def test_a_missing_package_is_named(toy_run, data, package, monkeypatch):
    monkeypatch.setattr("interp.reporting.scrubber.find_spec", lambda name: None if name == package else object())
    with pytest.raises(NotAvailableError, match=rf"needs {package}.*\[notebooks\]"):
        scrubber(toy_run, data)


def test_importing_it_needs_neither(monkeypatch):
    for package in ("ipywidgets", "anywidget"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "interp.reporting.scrubber")
    import interp.reporting.scrubber

    assert callable(interp.reporting.scrubber.scrubber)
