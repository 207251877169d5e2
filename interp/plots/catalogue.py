"""The table of built-in panels, in the order in which a report shows them.

A panel is one entry: which variables it needs, how it is drawn, what to look for. `Panel` says what the fields mean.
"""

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.analysis.account import KEY_SHARE
from interp.analysis.keys import named_key_frequencies
from interp.analysis.spectra import NEURON_SHARE
from interp.errors import InvalidArgumentError, UnknownNameError, did_you_mean
from interp.explanation import Explanation
from interp.milestones import Milestones
from interp.milestones.sources import logged_loss
from interp.plots.accounts import (
    attention_maps,
    birth_curves,
    head_ablation_curves,
    margin_map,
    sentence_bars,
    verdict_line,
)
from interp.plots.curves import (
    BY_IRREP,
    BY_PARAMETER,
    accuracy_curves,
    angle_curves,
    circularity_curves,
    irrep_curves,
    loss_curves,
    norm_curves,
    parameter_curves,
    progress_curves,
)
from interp.plots.mechanism import component_circles, head_spectra, neuron_phases
from interp.plots.panels import NOTHING_FOUND, STAGE, Panel, PanelContext, curve_panel
from interp.plots.structure import (
    component_grid,
    component_pairs,
    embedding_circle,
    spectrum_bars,
    spectrum_heatmap,
)
from interp.plots.style import Event, StepAxis, step_axis

__all__ = ["ON_REQUEST", "PANELS", "draw_panel", "has_plane", "loss_in_words", "named_panels"]

SHARE: Final = (-0.03, 1.04)
"""Range of a y axis of shares, with room for a line at 0 or 1."""
NANDA: Final = "Nanda et al., 2023, https://arxiv.org/abs/2301.05217"


def has_plane(data: xr.Dataset) -> bool:
    """Whether there are token embeddings on two principal components at least."""
    return "embedding_coordinates" in data and data.sizes["component"] > 1 and data.sizes["token"] > 1


def loss_in_words(metrics: xr.Dataset) -> str:
    """The kind of loss, as the beginning of a sentence."""
    own = logged_loss(metrics)
    return "Mean cross-entropy in nats" if own is None else own[0].upper() + own[1:]


def _loss_note(context: PanelContext) -> str:
    note = f"{loss_in_words(context.metrics)}."
    if context.milestones.changes:
        note += " Dashed: change points of the test loss, with their 95 % intervals as bars on the axis."
    return note


def _spectrum_note(context: PanelContext) -> str:
    note = "One range for every step, unless it is fitted to the step."
    keys, rule = named_key_frequencies(context.data)
    whose = "that were given" if rule == "given" else "of the last step"
    return note + (f" Numbered: the key frequencies {whose}." if keys else "") + _criterion(context)


def _criterion(context: PanelContext) -> str:
    """Sentence that says whose keys are marked, where an account is shown that has others; else empty."""
    if context.explanation is None or context.explanation.account.basis != "frequency":
        return ""
    keys, rule = named_key_frequencies(context.data)
    if rule != "criteria" or set(keys) == {*context.explanation.account.keys}:
        return ""
    listed, account = (", ".join(map(str, one)) or "none" for one in (keys, context.explanation.account.keys))
    return f" Key here, by two of three criteria: {listed}; of the account: {account}."


def _with_basis(note: str) -> Callable[[PanelContext], str]:
    """A note that says what the frequencies are, where they are not residues', and whose keys are marked."""

    def text(context: PanelContext) -> str:
        basis = str(context.data.attrs.get("basis", ""))
        return (f"{note} Frequencies: {basis}." if "products" in basis else note) + _criterion(context)

    return text


def _heat(id: str, variable: str, note: str, method: str = "") -> Panel:
    """A panel of frequency against step."""

    def draw(context: PanelContext) -> go.Figure:
        return spectrum_heatmap(context.data, variable, **context.overlay)

    return Panel(
        id, group="Frequencies", needs=[variable], draw=draw, kind="heat", note=_with_basis(note), method=method
    )


def _of_parameters(id: str, variable: str) -> Panel:
    """A panel of a norm of each parameter."""
    return Panel(
        id, group="Numerics", needs=[variable],
        draw=lambda context: parameter_curves(context.data, variable, **context.overlay),
        note="One colour for each layer. Names are those of the state dict, without the number of the block.",
    )  # fmt: skip


def _of_irreps(variable: str) -> Panel:
    """A panel with a curve for each irreducible representation."""
    return Panel(
        variable.replace("_", "-"), group="Mechanism", needs=[variable],
        draw=lambda context: irrep_curves(context.data, variable, **context.overlay),
        note="One curve for each irreducible representation of the group.",
    )  # fmt: skip


PANELS: Final[tuple[Panel, ...]] = (
    # --- the first screen
    Panel(
        "circle", title="The token embeddings", group=STAGE, kind="circle", needs=["embedding_coordinates"],
        applies=lambda context: has_plane(context.data),
        draw=lambda context: embedding_circle(
            context.data, context.step, components=component_pairs(context.data)[0]
        ),
        method="Token embeddings of every step, centred, on the principal components of the last step (“Towards "
        "Understanding Grokking”, Liu et al., 2022, https://arxiv.org/abs/2205.10343). The line and the ring colours "
        "follow the strongest Fourier frequency of each plane at the last step.",
    ),
    Panel(
        "spectrum", title="Fourier spectrum of the embedding", group=STAGE, kind="spectrum", needs=["embedding_power"],
        draw=lambda context: spectrum_bars(context.data, context.step),
        note=_spectrum_note,
        method=f"Squared norm of the embedding along cos and sin of frequency k, 1 ≤ k ≤ (p − 1)/2 ({NANDA}). Key "
        "frequencies are those that two of three criteria name at the last step: logits, neurons, embedding.",
    ),
    Panel(
        "accuracy", group=STAGE, needs=[("train_accuracy", "test_accuracy")],
        draw=lambda context: accuracy_curves(context.data, context.metrics, before=context.before, **context.overlay),
        note="Click a curve to go to that step. Drag to zoom, double-click to return.",
        method="Share of inputs whose largest logit is the right answer.",
    ),
    # --- learning
    Panel(
        "loss", group="Learning", needs=[("train_loss", "test_loss", "all_loss")],
        draw=lambda context: loss_curves(
            context.data,
            context.metrics,
            before=context.before,
            changes=context.milestones.changes,
            **context.overlay,
        ),
        note=_loss_note,
    ),
    Panel(
        "norm", group="Learning", needs=["weight_norm"],
        draw=lambda context: norm_curves(context.data, **context.overlay),
        note="All parameters together.",
        method="l2 norm of all trained parameters.",
    ),
    Panel(
        "parameters", group="Learning", needs=["sum_of_squares_by_parameter"],
        draw=lambda context: norm_curves(context.data, by="parameter", **context.overlay),
        note="Where the weight is held. Names are those of the state dict, without the number of the block.",
    ),
    curve_panel(
        "mirrors",
        {
            "test_accuracy_mirrored": "(b, a) is trained on",
            "test_accuracy_unmirrored": "(b, a) is held out too",
        },
        title="Held-out pairs with and without their mirror", y="accuracy (share right)", bounds=SHARE,
        group="Learning",
        note="Where (b, a) was trained on, commutativity alone gives (a, b). Generalisation proper is the other curve.",
    ),
    curve_panel(
        "length", {"weight_length": "|S|", "bias": "b"},
        title="Length of the weights, and the bias", y="|S| and b", group="Learning",
        note="Where the points cannot be separated, |S| settles and −b grows like log t; where they can, both grow and "
        "−b / |S| tends to 1 / margin.",
    ),
    curve_panel(
        "direction",
        {
            "late_direction_cosine": "cosine with the late direction",
            "positive_share": "share of points with S·x > 0",
        },
        title="Where the weights point", y="share, cosine", bounds=SHARE, group="Learning",
        note="Gradient descent ends in a direction that the points alone decide. Where a plane through the origin "
        "separates them, no point is left positive.",
    ),
    # --- the circle
    Panel(
        "circularity", group="Circle",
        needs=[("circularity", "circularity_by_component", "circle_resultant", "circle_order_correlation")],
        draw=lambda context: circularity_curves(context.data, **context.overlay),
        note="1 is a perfect circle, in perfect order.",
        method="Circularity: share of a component that its strongest frequency explains, averaged over components 1 to "
        "4 (“The Clock and the Pizza”, Zhong et al., 2023, https://arxiv.org/abs/2306.17844). Order, in the plane of "
        "components 1 and 2, with θ the angles of the tokens about their centroid: the resultant "
        "|mean exp(i(θ − 2πkt/p))| at its best frequency k, and the order correlation with the ranks of the angles in "
        "their place (after Mardia and Jupp, “Directional Statistics”, 2000, chapter 11).",
    ),
    Panel(
        "partners", group="Circle", kind="heat", needs=["component_pair_circularity", "component_frequency"],
        draw=lambda context: component_circles(context.data, **context.overlay),
        note="Each component with the one that it is most nearly a circle with; written in: the circle's frequency.",
    ),
    Panel(
        "angle", group="Circle", needs=["subspace_angle"],
        draw=lambda context: angle_curves(context.data, **context.overlay),
        note="Between the plane of components 1 and 2 and that of the last step; 0: it has come to rest.",
    ),
    curve_panel(
        "rank",
        {
            "effective_rank_embedding": "effective rank",
            "participation_ratio_embedding": "participation ratio",
        },
        title="How many dimensions the embedding uses", y="dimensions", group="Circle",
        note="A circle takes two dimensions; a network with m key frequencies comes down to about 2 m.",
    ),
    curve_panel(
        "parallelograms", {"rqi": "representation quality index"},
        title="Parallelograms in the embedding", y="share (0 to 1)", bounds=SHARE, group="Circle",
        applies=lambda context: bool(context.data["rqi"].values.any()),  # wide embeddings show none at all
        note="Share of the equal sums a + b = c + d (mod p) that the embedding shows as parallelograms.",
    ),
    Panel(
        "components", title="Circles on lower components", group="Circle", kind="components", wide=True,
        needs=["embedding_coordinates"],
        applies=lambda context: has_plane(context.data) and len(component_pairs(context.data)) > 1,
        draw=lambda context: component_grid(context.data, context.step),
        note="Each plane with the ring of its strongest frequency. Follows when the slider rests; click to enlarge.",
    ),
    # --- frequencies
    _heat(
        "heat-embedding", "embedding_power", "Each row is a frequency; the rows that stand out are those in use."
    ),
    _heat(
        "heat-logit", "logit_similarity", "The frequencies that the answer is made of.",
        "Cosine similarity of the logits with cos(2πk(a + b − c)/p) (“A Toy Model of Universality”, Chughtai et al., "
        "2023, https://arxiv.org/abs/2302.03025).",
    ),
    _heat(
        "heat-neuron", "neuron_cluster_size", "How many neurons have more than 85 % of their variance there."
    ),
    Panel(
        "heads", group="Frequencies", kind="heat", tall=True, needs=["attention_score_power"],
        draw=lambda context: head_spectra(context.data, events=context.events, axis=context.axis),
        note=_with_basis("Power of the scores that '=' gives to the numbers. One scale for all heads and steps."),
    ),
    curve_panel(
        "gini",
        {
            "gini_embedding": "embedding", "gini_neuron_logit": "neurons to logits W_L",
            "gini_unembedding": "unembedding",
        },
        title="Sparsity of the spectra", y="Gini coefficient (0 to 1)", group="Frequencies",
        note="0: power spread evenly over the frequencies; 1: all in one.",
        method=f"Gini coefficient of the norms of the Fourier components of each matrix ({NANDA}).",
    ),
    # --- mechanism
    Panel(
        "progress",
        needs=[
            (
                "restricted_loss_logit", "restricted_loss_neuron", "restricted_loss_hidden", "excluded_loss_2d",
                "excluded_loss_3d", "excluded_loss_neuron", "excluded_loss_hidden",
            )
        ],
        draw=lambda context: progress_curves(context.data, **context.overlay),
        note="Restricted: only key frequencies kept. Excluded: key frequencies removed. Dotted: train and test loss.",
        method="Restricted loss: only key frequencies are kept, in the logits (the published code) or in the neurons "
        "(the TransformerLens demo). Excluded loss: train loss when key frequencies are removed, two directions per "
        "frequency (2d), their one combination (3d), or from the neurons. The variants are inequivalent "
        f"({NANDA}, section 5.1).",
    ),
    Panel(
        "phases", kind="still", needs=["neuron_phase_first", "neuron_phase_second", "neuron_frequency"],
        draw=lambda context: neuron_phases(context.data, context.step),
        note=f"One dot per neuron with more than {NEURON_SHARE:.0%} of its variance on one frequency, at the last "
        "step. On the dotted lines both phases are equal.",
    ),
    *map(_of_irreps, BY_IRREP),
    curve_panel(
        "algorithm",
        {
            "gradient_symmetricity": "gradient symmetricity",
            "distance_irrelevance": "distance irrelevance",
            "distance_irrelevance_wrong": "the same, largest wrong logit",
        },
        title="Clock or pizza: how the answer depends on the operands", y="score (1 at most)",
        note="Zhong et al. (2023): a pizza has symmetricity near 1 and irrelevance near 0; a clock the other way "
        "round.",
    ),
    curve_panel(
        "variance",
        {
            "clock_variance_explained": "clock: cos(w(a+b−c))",
            "pizza_variance_explained": "pizza and accompanying circles",
            "sum_explained_variance": "anything of a + b",
        },
        title="Formulas that explain the logits", y="share of variance", bounds=SHARE,
        note="At the key frequencies of the last step. With its accompanying circles a pizza fits even a pure clock to "
        "0.99: symmetricity and irrelevance tell them apart, not these.",
    ),
    curve_panel(
        "trig", {"trig_loss_ratio": "ratio"}, title="Test loss over restricted loss", y="ratio", logarithmic=True,
        note="Rises while the circuit forms underneath what is memorised, and falls back once that is cleaned up.",
    ),
    # --- numerical health
    curve_panel(
        "collapse",
        {"softmax_collapse": "softmax exactly one-hot", "zero_loss_share": "loss exactly 0"},
        title="Training inputs that float32 no longer tells apart", y="share of training inputs", bounds=SHARE,
        group="Numerics",
        note="Prieto et al. (2025): with a loss in float32 such an input has no gradient left.",
    ),
    curve_panel(
        "precision", {"precision_gap": "|float32 − float64|", "train_loss": "training loss"},
        needs=["precision_gap"],
        title="What float32 costs in the training loss", y="nats", logarithmic=True, group="Numerics",
        note="Trouble begins where the difference comes near the loss itself.",
    ),
    *(_of_parameters(variable.partition("_")[0], variable) for variable in BY_PARAMETER),
)  # fmt: skip
"""Every built-in panel."""


ON_REQUEST: Final[tuple[Panel, ...]] = (
    Panel(
        "sentences", title=lambda context: verdict_line(_of(context)), group="Explanation", kind="still",
        wide=True, explained=True, height=lambda figure: figure.layout.height,
        draw=lambda context: sentence_bars(_of(context)),
        note=lambda context: f"Left over: {_of(context).left_over}. {_keys_note(context)}",
        method="Sentences about the network as interp.explain finds them, each beside the same sentence for as many "
        "frequencies (or irreps) that are not key: mean and range of several draws of them. Part replaced: the network "
        "with what the sentence speaks of taken "
        "from the account; part removed: without it; rest resampled: all that the sentence calls irrelevant comes from "
        "other inputs (causal scrubbing, Chan et al., 2022; the bar's whisker is the range over permutations). "
        "Logits restricted to any frequencies give the right answer whatever the network does, so that the first "
        "sentence's “part replaced” says nothing about its keys. "
        "The certificate is a lower bound on the accuracy over all pairs, proved from weights and account "
        "with fewer operations than all answers take; it says nothing of other accounts.",
    ),
    Panel(
        "births", group="Explanation", wide=True, explained=True, height=lambda figure: figure.layout.height,
        applies=lambda context: bool(_of(context).account.keys) and "certified_accuracy" in _of(context).timeline,
        draw=lambda context: birth_curves(_of(context).timeline, **context.overlay),
        note=lambda context: _birth_note(_of(context).timeline),
        method="The account is refitted at each step with the keys of the last one.",
    ),
    Panel(
        "margins", title="Certified margins", group="Explanation", kind="map", sparse=True,
        needs=["certified_margin"], draw=lambda context: margin_map(context.sparse, context.sparse_step),
        note="Each pair (a, b): lower bound on the right answer's logit less the largest other one. Green: proved to "
        "be right.",
    ),
    Panel(
        "head-ablations", group="Explanation", sparse=True, needs=["head_ablation_loss", "all_loss"],
        draw=lambda context: head_ablation_curves(context.sparse, **context.overlay),
        note="Output of one head set to zero, which is harsher than its mean.",
    ),
    Panel(
        "attention", title="Attention from '=' to the first operand", group="Explanation", kind="map", wide=True,
        sparse=True, needs=["attention_pattern"],
        draw=lambda context: attention_maps(context.sparse, context.sparse_step),
        note="One map for each head, with the first operand a upwards and b to the right; one scale for all steps.",
    ),
)  # fmt: skip
"""Built-in panels that take long, and are shown where they are asked for: "explain" is the name of all of them."""


def _birth_note(timeline: xr.Dataset) -> str:
    """Definition of a birth, and where certified accuracy is furthest below test accuracy."""
    text = "A diamond marks a birth: the first step from which a quantity stays above half its last value."
    if "test_accuracy" not in timeline or "certified_accuracy" not in timeline:
        return text
    proved, found = (timeline[name].values for name in ("certified_accuracy", "test_accuracy"))
    i = int(np.argmax(found - proved))
    return (
        f"{text} Certified accuracy is furthest below test accuracy at step {int(timeline['step'].values[i]):,}, "
        f"{proved[i]:.2f} and {found[i]:.2f}."
    )


def _keys_note(context: PanelContext) -> str:
    """Why the keys of the account and the key frequencies of other panels may differ; empty for irreps."""
    if _of(context).account.basis != "frequency":
        return ""
    named = context.data.attrs.get("key_frequencies")
    others = "" if named is None else f" ({', '.join(map(str, named)) or 'none'})"
    return (
        f"Keys of the account are the frequencies with more than {KEY_SHARE:.1%} of the squared logits, or "
        f"named by two of three criteria, without which less is proved; other panels call key what two of these "
        f"criteria name{others}. Clusters of the account have "
        f"every neuron; other panels count those with {NEURON_SHARE:.0%} of their variance on one frequency."
    )


def _of(context: PanelContext) -> Explanation:
    assert context.explanation is not None  # `Panel.explained`
    return context.explanation


def named_panels(panels: Iterable[Panel | str]) -> list[Panel]:
    """Panels with those that names stand for: an id among `ON_REQUEST`, or "explain" for all of these.

    Raises:
        UnknownNameError: there is no such panel.
        InvalidArgumentError: `panels` is no list.

    >>> [panel.id for panel in named_panels(["margins"])]
    ['margins']
    """
    if isinstance(panels, str) or not isinstance(panels, Iterable):
        raise InvalidArgumentError(f"`panels` must be a list of panels, such as [panel]; got {panels!r}.")
    known = {panel.id: panel for panel in ON_REQUEST}
    found: list[Panel] = []
    for one in panels:
        if one == "explain":
            found += [panel for panel in ON_REQUEST if panel not in found]
        elif isinstance(one, str) and one not in known:
            raise UnknownNameError(f"There is no panel `{one}` on request. {did_you_mean(one, ['explain', *known])}")
        elif isinstance(one, str):
            found += [known[one]] if known[one] not in found else []
        else:
            found.append(one)
    return found


def draw_panel(
    data: xr.Dataset,
    panel: Panel | str,
    metrics: xr.Dataset | None = None,
    *,
    step: int | None = None,
    events: Iterable[Event] = (),
    milestones: Milestones = NOTHING_FOUND,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """The figure of a panel, or of the built-in panel (`PANELS`, `ON_REQUEST`) of this id.

    Arguments:
        data: measures over `step`, as from `interp.measure`.
        panel: a panel or an id.
        metrics: losses and accuracies that were logged, as `traj.metrics`.
        step: of figures that show a single step; None: the last.
        events, axis: as for all curves over steps.
        milestones: those of the run, from `interp.milestones.find`; its phases and change points are marked.

    Example:
        >>> data = xr.Dataset({"softmax_collapse": ("step", [0.0, 0.5])}, {"step": [0, 100]})
        >>> draw_panel(data, "collapse").data[0].name
        'softmax exactly one-hot'
    """
    known = {built_in.id: built_in for built_in in (*PANELS, *ON_REQUEST) if not built_in.explained}
    if isinstance(panel, str) and panel not in known:
        raise UnknownNameError(f"There is no panel `{panel}`. {did_you_mean(panel, known)}")
    chosen = known[panel] if isinstance(panel, str) else panel
    steps = [source["step"].values for source in (data, metrics) if source is not None and "step" in source]
    context = PanelContext(
        data,
        axis=step_axis(np.concatenate(steps), axis),
        metrics=xr.Dataset() if metrics is None else metrics,
        events=list(events),
        milestones=milestones,
        step=step,
        sparse=data,
    )
    return chosen.draw(context)
