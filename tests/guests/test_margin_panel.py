"""A panel from outside the package appears in the report, in a section of its own, with what it measures."""

import json
import re

import numpy as np

import interp
from tests.guests.margin_panel import margin_panel


def test_the_report_shows_a_users_panel(toy_run, tmp_path):
    html = interp.report(toy_run, tmp_path / "report.html", panels=[margin_panel(toy_run)]).read_text()
    assert re.findall(r'<h2 class="group" id="g-(\w+)">', html)[-1] == "Robustness"
    assert "<dd>Logit of the right answer less the largest other logit.</dd>" in html
    sent = json.loads(re.search(r'id="payload">(.*?)</script>', html, re.S).group(1))
    assert sent["panels"][-1] == {"id": "margin", "kind": "curve"}
    assert [trace["name"] for trace in sent["figures"]["margin"]["data"]] == ["least", "median"]


def test_its_curve_is_that_of_the_accuracy(toy_run):
    """The least margin is positive exactly where every training input is answered correctly."""
    (need,) = margin_panel(toy_run).needs
    data = interp.measure(toy_run, ["train_accuracy", need], cache=False)
    least = data["margin"].isel(margin_0=0).values
    np.testing.assert_array_equal(least > 0, data["train_accuracy"].values == 1)
