"""Figures of an account: its sentences beside their controls, births of its parts, certified margins, attention.

`interp.explain` computes what is drawn here. No score is shown without its control: logits restricted to any
frequencies give the right answer whatever the network does, so that a high accuracy of a sentence alone says nothing.
"""

import textwrap
from collections.abc import Iterable, Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.analysis.scrubbing import Score
from interp.analysis.spectra import NEURON_SHARE
from interp.explanation import Explanation, Sentence
from interp.explanation.presenting import certificate_line
from interp.explanation.sentences import ANY_KEYS, always_right
from interp.explanation.timeline import births
from interp.plots.style import (
    COLOURS,
    SERIES,
    Event,
    StepAxis,
    colour_bar,
    figure,
    mark_events,
    mark_phases,
    need,
    plain,
    step_axis,
    step_index,
    template,
)

__all__ = ["attention_maps", "birth_curves", "head_ablation_curves", "margin_map", "sentence_bars", "verdict_line"]

COLUMNS = {  # title -> score of a sentence
    "explained": "explained",
    "part replaced": "alone",
    "part removed": "without",
    "rest resampled": "resampled",
}
WIDEST = 58
"""Letters in a line of a sentence."""
ROWS = {  # variable of a timeline over step and key -> title of its row
    "alpha": "alpha in the logits",
    "cluster_size": f"neurons, {NEURON_SHARE:.0%} on k",
    "embedding_share": "embedding share",
}
NOTHING = Score(np.nan, np.nan, np.nan)
MARGINS = [[0.0, "#a3431a"], [0.4999, "#f3dccd"], [0.5, "#d6ebe3"], [1.0, "#0d6b4e"]]
"""Colours of margins, which change at 0: below it nothing is proved."""


def verdict_line(explanation: Explanation) -> str:
    """Verdict and certificate of an explanation in a line."""
    certificate = explanation.certificate
    proved = "No certificate: the network tells no tables." if certificate is None else certificate_line(certificate)
    limit = f" ({explanation.limit})" if explanation.limit else ""
    return f"{explanation.run}, step {explanation.step:,}: {explanation.verdict}{limit}. {proved}"


def sentence_bars(explanation: Explanation) -> go.Figure:
    """Sentences of an account with their scores as bars, each above its control, accounts of keys that are none.

    The columns: share explained; accuracy with the sentence's part replaced by the account, with it removed, and with
    all that the sentence calls irrelevant taken from other inputs (range over permutations). Controls are means over
    several draws of other keys, with their range. A tick says that the sentence holds.

    >>> import interp, tempfile
    >>> config = interp.recipes.get("kitouni-circle-small").replace({"steps": 2})
    >>> found = interp.explain(interp.train(config, root=tempfile.mkdtemp()), timeline=False)
    >>> sentence_bars(found).data[0].name  # of a network that has learned nothing yet
    'account'
    """
    sentences = explanation.sentences
    rows = list(range(len(sentences)))
    fig = make_subplots(1, len(COLUMNS), shared_yaxes=True, horizontal_spacing=0.02, column_titles=list(COLUMNS))
    for column, kind in enumerate(COLUMNS.values(), start=1):
        for name, control, colour in (
            ("account", False, COLOURS["restricted"]),
            ("control: keys that are none", True, COLOURS["other"]),
        ):
            scores = [_score(one, kind, control) for one in sentences]
            notes = [ANY_KEYS if control and always_right(one.id, kind) else "" for one in sentences]
            fig.add_bar(
                x=[score.accuracy for score in scores], y=rows, orientation="h", name=name, legendgroup=name,
                showlegend=column == 1, error_x=_range(scores),
                marker={"color": colour, "line": {"width": 0}, "opacity": [0.3 if note else 1.0 for note in notes]},
                text=["" if np.isnan(s.accuracy) else f"{s.accuracy:.4g} {note}" for s, note in zip(scores, notes)],
                textposition="outside", cliponaxis=False, textfont={"size": 10},
                hovertext=[str(score) for score in scores] if column > 1 else None,
                hovertemplate=f"{name}: %{{{'hovertext' if column > 1 else 'x:.4f'}}}<extra></extra>",
                row=1, col=column,
            )  # fmt: skip
    labels = [
        ("✓ " if one.holds else "✗ ") + "<br>".join(map(plain, textwrap.wrap(one.text, WIDEST))) for one in sentences
    ]
    fig.update_xaxes(range=[0, 1.42], tickvals=[0, 0.5, 1], title_text="accuracy")
    fig.update_xaxes(title_text="share of variance", col=1)
    fig.update_yaxes(
        range=[len(rows) - 0.45, -0.55], tickvals=rows, ticktext=labels, showgrid=False, ticks="", ticklabelstandoff=6
    )
    fig.update_annotations(font_size=12)
    subtitle = "<br>".join(map(plain, textwrap.wrap(verdict_line(explanation), 120)))
    return fig.update_layout(
        template=template(),
        title={"text": "Sentences of the account", "subtitle": {"text": subtitle}, "xref": "container",
               "pad": {"t": 12, "l": 12}},
        height=180 + 46 * max(len(rows), 2), bargap=0.28, bargroupgap=0.05, hovermode="closest",
        legend={"y": 0, "yref": "container", "yanchor": "bottom"}, margin={"t": 120},
    )  # fmt: skip


def birth_curves(
    timeline: xr.Dataset,
    *,
    events: Iterable[Event] = (),
    phases: Mapping[str, int | None] | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """Coefficient in the logits, cluster and embedding share of each key over steps, above certified and test accuracy.

    A diamond marks each birth: the first step from which a quantity stays above half its last value. `timeline` is that
    of an explanation. Certified accuracy rises after test accuracy: until then something besides the account is there.

    >>> alpha = xr.DataArray([[0.0], [3.0]], {"step": [0, 10], "key": [7]})
    >>> data = xr.Dataset({"alpha": alpha, "certified_accuracy": ("step", [0.0, 0.9])})
    >>> [trace.name for trace in birth_curves(data).data]
    ['k = 7', 'birth', 'certified accuracy']
    """
    shown = [name for name in ROWS if name in timeline and timeline.sizes["key"]]
    accuracies = [
        (name, style)
        for name, style in (
            ("certified_accuracy", {"color": COLOURS["restricted"], "width": 3}),
            ("test_accuracy", {"color": COLOURS["test"], "width": 2}),
            ("train_accuracy", {"color": COLOURS["train"], "width": 1.5}),
        )
        if name in timeline
    ]
    need(timeline, [name for name, _ in accuracies] or ["certified_accuracy"], dims=["step"], argument="timeline")
    steps = np.asarray(timeline["step"].values)
    place = step_axis(steps, axis)
    fig = figure("Births of the parts of the account", y="accuracy", xaxis=place.layout())
    count, gap = len(shown) + 1, 0.035
    borders = np.linspace(1, 0, count + 1)
    born = births(timeline)
    for row, name in enumerate(shown):
        y = "y" if row == 0 else f"y{row + 1}"
        for place_of_key, key in enumerate(timeline["key"].values.tolist()):
            curve, colour = timeline[name].sel(key=key), SERIES[place_of_key % len(SERIES)]
            label = f"k = {key}" if isinstance(key, int) else str(key)
            fig.add_scatter(
                x=place.place(steps), y=np.asarray(curve.values, np.float32), yaxis=y, name=plain(label), mode="lines",
                legendgroup=str(key), showlegend=row == 0, line={"color": colour, "width": 2},
                hovertemplate="%{y:.3~g}",
            )  # fmt: skip
            step = born[name][key]
            if step is not None:
                fig.add_scatter(
                    x=place.place([step]), y=[float(curve.sel(step=step))], yaxis=y, name="birth", mode="markers",
                    legendgroup=str(key), showlegend=False, hoverinfo="text",
                    hovertext=plain(f"{label}: born at step {step:,}"),
                    marker={"symbol": "diamond", "size": 9, "color": colour, "line": {"width": 1, "color": "#ffffff"}},
                )  # fmt: skip
        fig.update_layout({f"yaxis{'' if row == 0 else row + 1}": _row(borders, row, gap, ROWS[name])})
    last = count - 1
    for name, line in accuracies:
        fig.add_scatter(
            x=place.place(steps), y=np.asarray(timeline[name].values, np.float32), name=name.replace("_", " "),
            yaxis="y" if last == 0 else f"y{count}", mode="lines", line=line, hovertemplate="%{y:.4~g}",
        )  # fmt: skip
    lowest = _row(borders, last, 0.0, "accuracy") | {"range": [-0.03, 1.04]}
    fig.update_layout({f"yaxis{'' if last == 0 else count}": lowest})
    fig.update_xaxes(anchor="y" if last == 0 else f"y{count}")
    legend = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}
    fig.update_layout(hovermode="x unified", hoverdistance=-1, legend=legend, height=150 + 130 * count)
    mark_phases(fig, phases, place)
    return mark_events(fig, events, place).update_shapes(yref="paper")


def margin_map(data: xr.Dataset, step: int | None = None) -> go.Figure:
    """Certified margins of all pairs (a, b) at one step (None: the last): above 0 the answer is proved to be right.

    The scale, the same at every step, is that of the last one; margins are shown up to four times its ends.

    >>> data = xr.Dataset({"certified_margin": (("step", "pair"), [[-1.0, 2.0, 1.0, 3.0]])}, {"step": [7]})
    >>> margin_map(data).layout.title.text
    'Certified margins, step 7: 3 of 4 pairs proved'
    """
    need(data, "certified_margin", dims=["step", "pair"])
    table = data["certified_margin"].transpose("step", "pair")
    i = step_index(data, step)
    bound = _largest(np.asarray(table.values[-1]))
    margins = np.clip(np.asarray(table.values[i], np.float32), -4 * bound, 4 * bound)  # of a step that proves nothing
    proved, pairs = int((margins > 0).sum()), int((~np.isnan(margins)).sum())
    now = int(data["step"].values[i])
    fig = figure(f"Certified margins, step {now:,}: {proved:,} of {pairs:,} pairs proved", x="second operand b", y="a")
    fig.add_heatmap(
        z=_square(margins), zmin=-bound, zmax=bound, colorscale=MARGINS, colorbar=colour_bar("margin, at least"),
        hovertemplate="a = %{y}, b = %{x}: at least %{z:.3~g}<extra></extra>",
    )  # fmt: skip
    fig.update_layout(width=660, height=580)
    return _as_map(fig, round(margins.size**0.5))


def attention_maps(data: xr.Dataset, step: int | None = None) -> go.Figure:
    """Attention from '=' to the first operand: for each head a map of the pairs (a, b) at one step (None: the last).

    The colours go from 0 to 1 in every map. A head that attends to both operands by their sum shows diagonals.

    >>> pattern = xr.DataArray(np.full((1, 2, 9), 0.5), dims=("step", "head", "pair"))
    >>> fig = attention_maps(xr.Dataset({"attention_pattern": pattern}, {"step": [7]}))
    >>> [note.text for note in fig.layout.annotations]
    ['head 0', 'head 1']
    """
    need(data, "attention_pattern", dims=["step", "head", "pair"])
    i = step_index(data, step)
    patterns = data["attention_pattern"].isel(step=i).transpose("head", "pair")
    heads = patterns["head"].values
    fig = make_subplots(1, len(heads), subplot_titles=[f"head {head}" for head in heads], horizontal_spacing=0.04)
    fig.update_annotations(font_size=12)
    for column, (head, pattern) in enumerate(zip(heads, np.asarray(patterns.values, np.float32)), start=1):
        fig.add_heatmap(
            z=_square(pattern), zmin=0, zmax=1, autocolorscale=True, showscale=column == len(heads),
            colorbar=colour_bar("attention to a"), row=1, col=column,
            hovertemplate=f"head {head}, a = %{{y}}, b = %{{x}}: %{{z:.3f}}<extra></extra>",
        )  # fmt: skip
    fig.update_xaxes(title_text="b")
    fig.update_yaxes(title_text="a", col=1)
    fig.update_layout(
        template=template(), title_text=f"Attention to a, step {int(data['step'].values[i]):,}", height=340
    )
    return _as_map(fig, round(patterns.sizes["pair"] ** 0.5))


def head_ablation_curves(
    data: xr.Dataset,
    *,
    events: Iterable[Event] = (),
    phases: Mapping[str, int | None] | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """Loss over all pairs without one head (its output set to zero), for each head, beside the loss of the network.

    >>> table = xr.DataArray([[2.0, 3.0]], dims=("step", "head"))
    >>> data = xr.Dataset({"head_ablation_loss": table, "all_loss": ("step", [1.0])}, {"step": [7]})
    >>> [trace.name for trace in head_ablation_curves(data).data]
    ['without head 0', 'without head 1', 'all heads']
    """
    need(data, "head_ablation_loss", dims=["step", "head"])
    table = data["head_ablation_loss"]
    steps = np.asarray(data["step"].values)
    place = step_axis(steps, axis)
    fig = figure("Loss without one head", y="cross-entropy (nats)", xaxis=place.layout(), yaxis_type="log")
    fig.update_yaxes(exponentformat="power", nticks=5)
    curves = [
        (f"without head {head}", table.isel(head=i), {"color": SERIES[i % len(SERIES)], "width": 2})
        for i, head in enumerate(table["head"].values)
    ]
    if "all_loss" in data:
        curves.append(("all heads", data["all_loss"], {"color": COLOURS["all"], "width": 2, "dash": "dot"}))
    for name, series, line in curves:
        y = np.asarray(series.values, np.float32)
        y = np.where(np.isfinite(y) & (y > 0), y, np.float32(np.nan))
        fig.add_scatter(x=place.place(steps), y=y, name=name, mode="lines", line=line, hovertemplate="%{y:.2e}")
    fig.update_layout(hovermode="x unified", hoverdistance=-1)
    mark_phases(fig, phases, place)
    return mark_events(fig, events, place)


def _score(sentence: Sentence, kind: str, control: bool) -> Score:
    """Score of a sentence or of its control; a share as a score, too, so that it is drawn as accuracies are."""
    one = sentence.null if control else sentence
    if kind != "explained":
        return getattr(one, kind) or NOTHING
    low, high = sentence.null_range if control and sentence.null_range else (np.nan, np.nan)
    return NOTHING if one.explained is None else Score(np.nan, one.explained, np.nan, low, high)


def _range(scores: list[Score]) -> dict[str, object]:
    """Error bars from the smallest to the largest accuracy over permutations."""
    above, below = ([score.high - score.accuracy for score in scores], [score.accuracy - score.low for score in scores])
    return {
        "type": "data", "symmetric": False, "array": np.nan_to_num(above), "arrayminus": np.nan_to_num(below),
        "thickness": 1, "width": 2, "color": COLOURS["event"],
    }  # fmt: skip


def _row(borders: np.ndarray, row: int, gap: float, title: str) -> dict[str, object]:
    """Axis of a row of a figure, from the top."""
    return {"domain": [float(borders[row + 1]) + gap, float(borders[row])], "title": {"text": title}, "nticks": 4}


def _largest(margins: np.ndarray) -> float:
    """Bound of the colours: all but the outermost hundredth of the margins lie within."""
    finite = np.abs(margins[np.isfinite(margins)])
    return float(np.quantile(finite, 0.99)) or 1.0 if finite.size else 1.0


def _square(values: np.ndarray) -> np.ndarray:
    p = round(values.size**0.5)
    return values.reshape(p, p)


def _as_map(fig: go.Figure, p: int) -> go.Figure:
    """A figure of square maps of p x p pairs, whose axes do not move."""
    fig.update_xaxes(range=[-0.5, p - 0.5], constrain="domain", showgrid=False, nticks=6)
    fig.update_yaxes(range=[-0.5, p - 0.5], constrain="domain", showgrid=False, nticks=6)
    for trace in fig.data:
        own = trace.xaxis or "x"
        fig.update_layout({f"yaxis{own[1:]}": {"scaleanchor": own, "scaleratio": 1}})
    return fig.update_layout(hovermode="closest")
