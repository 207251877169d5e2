"""Figures of sweeps show the planted table, say what they need, and share the look of the others."""

import numpy as np
import pytest
import xarray as xr

from interp.errors import InvalidArgumentError
from interp.execution.sweeps import PHASES
from interp.plots.style import template
from interp.plots.sweeps import PHASE_COLOURS, phase_diagram, steps_against

FRACTIONS, DECAYS, SEEDS = [0.3, 0.5, 0.7], [0.1, 1.0], [0, 1, 2]
GRID = ("task.train_fraction", "optimizer.weight_decay")


def planted():
    """More data and more decay generalise sooner; at 30 % and little decay no run does, one cell has no run at all."""
    steps = np.array([[[np.nan] * 3, [900, 1000, np.nan]], [[500, 600, 700], [200] * 3], [[100] * 3, [np.nan] * 3]])
    censored = np.isnan(steps)
    censored[2, 1] = False
    last = np.where(censored | ~np.isnan(steps), 1500.0, np.nan)
    bands = {"": [[np.inf, 1000], [600, 200], [100, np.nan]], "_lower": [[np.inf, 900], [500, 200], [100, np.nan]],
             "_upper": [[np.inf, np.inf], [700, 200], [100, np.nan]]}  # fmt: skip
    shares = np.zeros((3, 2, 4))
    shares[0, 0] = [0, 0, 1 / 3, 2 / 3]
    shares[0, 1] = shares[1, 0] = [0, 1, 0, 0]
    shares[1, 1] = shares[2, 0] = [0.5, 0.5, 0, 0]
    shares[2, 1] = np.nan
    return xr.Dataset(
        {
            "generalised_step": ((*GRID, "seed"), steps),
            "generalised_censored": ((*GRID, "seed"), censored),
            "last_step": ((*GRID, "seed"), last),
            "phase_share": ((*GRID, "phase"), shares),
            **{f"steps_to_generalise{k}": ((*GRID, "quantile"), np.array(v)[..., None]) for k, v in bands.items()},
        },
        {GRID[0]: FRACTIONS, GRID[1]: DECAYS, "seed": SEEDS, "phase": list(PHASES), "quantile": [0.5]},
    )


RESULTS = planted()


@pytest.mark.parametrize(
    "make", [lambda: phase_diagram(RESULTS, *GRID), lambda: steps_against(RESULTS, GRID[0], by=GRID[1])]
)
def test_figures_share_the_template_and_name_their_axes(make):
    fig = make()
    assert fig.layout.template == template()
    assert fig.layout.title.text
    assert fig.layout.xaxis.title.text == GRID[0]
    assert fig.layout.yaxis.title.text


def test_a_cell_has_the_colour_of_its_phase():
    assert list(PHASE_COLOURS) == list(PHASES)
    fig = phase_diagram(RESULTS, *GRID)
    cells = fig.data[0]
    np.testing.assert_array_equal(cells.z, [[3, 1, 0], [1, 0, np.nan]])
    assert list(cells.x) == FRACTIONS
    assert list(cells.y) == DECAYS
    for i, phase in enumerate(PHASES):
        at = (i - cells.zmin) / (cells.zmax - cells.zmin)
        (low, left), (high, right) = cells.colorscale[2 * i : 2 * i + 2]
        assert low < at < high
        assert left == right == PHASE_COLOURS[phase]
    assert [trace.name for trace in fig.data[1:]] == list(PHASES)
    assert [trace.marker.color for trace in fig.data[1:]] == list(PHASE_COLOURS.values())
    transposed = phase_diagram(RESULTS, *reversed(GRID)).data[0]
    np.testing.assert_array_equal(transposed.z, np.transpose(cells.z))


def test_a_cell_whose_seeds_disagree_says_so():
    cells = phase_diagram(RESULTS, *GRID).data[0]
    assert np.array(cells.text).tolist() == [["67 %", "", "50 %"], ["", "50 %", ""]]
    assert cells.customdata[0][0] == "memorisation 33%<br>confusion 67%"
    assert cells.customdata[1][2] == "no run"


def named(fig, name):
    return [trace for trace in fig.data if trace.name == name]


def test_each_run_is_a_point_and_one_that_has_not_generalised_a_triangle_at_its_end():
    fig = steps_against(RESULTS, GRID[0], by=GRID[1])
    low, high = named(fig, "one run")
    assert list(zip(low.x, low.y)) == [(0.5, 500), (0.5, 600), (0.5, 700), *[(0.7, 100)] * 3]
    assert list(zip(high.x, high.y)) == [(0.3, 900), (0.3, 1000), *[(0.5, 200)] * 3]
    low, high = named(fig, "not by the end of the run")
    assert list(zip(low.x, low.y)) == [(0.3, 1500)] * 3
    assert list(zip(high.x, high.y)) == [(0.3, 1500)]
    assert low.marker.symbol == "triangle-up-open"


def test_curves_have_gaps_and_bands_end_with_the_runs():
    fig = steps_against(RESULTS, GRID[0], by=GRID[1])
    low, high = named(fig, "optimizer.weight_decay = 0.1") + named(fig, "optimizer.weight_decay = 1.0")
    np.testing.assert_array_equal(low.y, [np.nan, 600, 100])
    np.testing.assert_array_equal(high.y, [1000, 200, np.nan])
    bands = [trace for trace in fig.data if trace.fill == "toself"]
    assert [list(band.x) for band in bands] == [[0.5, 0.7, 0.7, 0.5], [0.3, 0.5, 0.5, 0.3]]
    assert [list(band.y) for band in bands] == [[700, 100, 100, 500], [1500, 200, 200, 900]]


def test_axes_of_words_and_logarithms():
    words = RESULTS.isel({GRID[1]: 0}).assign_coords({GRID[0]: ["add", "divide", "x2+y"]})
    fig = steps_against(words, GRID[0])
    assert fig.layout.xaxis.type == "category"
    assert list(named(fig, "median")[0].x) == ["add", "divide", "x2+y"]
    assert steps_against(RESULTS.isel({GRID[0]: 1}), GRID[1], logarithmic=True).layout.xaxis.type == "log"
    assert steps_against(RESULTS, GRID[0], by=GRID[1]).layout.yaxis.type == "log"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: phase_diagram(RESULTS.drop_vars("phase_share"), *GRID), "`results` must hold `phase_share`"),
        (
            lambda: phase_diagram(RESULTS, "train_fraction", GRID[1]),
            r"an axis `train_fraction`.*`task\.train_fraction`",
        ),
        (lambda: phase_diagram(RESULTS, GRID[0], GRID[0]), "must be different ones; got .* twice"),
        (lambda: steps_against(RESULTS, GRID[0]), r"must have one value of `optimizer\.weight_decay`; got 2.*\.sel\("),
        (lambda: steps_against(RESULTS, GRID[0], by=GRID[1], quantile=0.9), "`quantile` must be one of.* 0.5; got 0.9"),
    ],
)
def test_errors_name_the_argument_and_the_rule(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
