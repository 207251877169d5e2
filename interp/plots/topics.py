"""Curves that belong together, as a table: what each topic shows, under which title, in which unit.

A measure over `step` gets its place in a figure by one line of `TOPICS`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import plotly.graph_objects as go
import xarray as xr

from interp.errors import UnknownNameError, did_you_mean
from interp.plots.curves import measure_curves
from interp.plots.style import Event, StepAxis

__all__ = ["TOPICS", "Topic", "topic_curves"]

SHARE = (-0.03, 1.04)


@dataclass(frozen=True)
class Topic:
    """Some measures in one figure; `variables` maps their names to what the legend calls them."""

    title: str
    y: str
    variables: Mapping[str, str]
    note: str = ""
    """What to look for, in a sentence or two."""
    bounds: tuple[float, float] | None = None
    logarithmic: bool = False
    group: str = field(default="Mechanism", kw_only=True)
    """The heading of a report under which it stands."""


TOPICS: Mapping[str, Topic] = MappingProxyType(
    {
        "mirrors": Topic(
            "Held-out pairs with and without their mirror", "accuracy (share right)",
            {
                "test_accuracy_mirrored": "(b, a) is trained on",
                "test_accuracy_unmirrored": "(b, a) is held out too",
            },
            "Where (b, a) was trained on, commutativity alone gives (a, b). Generalisation proper is the other curve.",
            SHARE, group="Learning",
        ),
        "length": Topic(
            "Length of the weights, and the bias", "|S| and b",
            {"weight_length": "|S|", "bias": "b"},
            "Where the points cannot be separated, |S| settles and −b grows like log t; where they can, both grow and "
            "−b / |S| tends to 1 / margin.", group="Learning",
        ),
        "direction": Topic(
            "Where the weights point", "share, cosine",
            {
                "late_direction_cosine": "cosine with the late direction",
                "positive_share": "share of points with S·x > 0",
            },
            "Gradient descent ends in a direction that the points alone decide. Where a plane through the origin "
            "separates them, no point is left positive.", SHARE, group="Learning",
        ),
        "rank": Topic(
            "How many dimensions the embedding uses", "dimensions",
            {
                "effective_rank_embedding": "effective rank",
                "participation_ratio_embedding": "participation ratio",
            },
            "A circle takes two dimensions; a network with m key frequencies comes down to about 2 m.",
            group="Circle",
        ),
        "parallelograms": Topic(
            "Parallelograms in the embedding", "share (0 to 1)", {"rqi": "representation quality index"},
            "Share of the equal sums a + b = c + d (mod p) that the embedding shows as parallelograms.", SHARE,
            group="Circle",
        ),
        "gini": Topic(
            "Sparsity of the spectra", "Gini coefficient (0 to 1)",
            {
                "gini_embedding": "embedding", "gini_neuron_logit": "neurons to logits W_L",
                "gini_unembedding": "unembedding",
            },
            "0: power spread evenly over the frequencies; 1: all in one.", group="Frequencies",
        ),
        "algorithm": Topic(
            "Clock or pizza: how the answer depends on the operands", "score (1 at most)",
            {
                "gradient_symmetricity": "gradient symmetricity",
                "distance_irrelevance": "distance irrelevance",
                "distance_irrelevance_wrong": "the same, largest wrong logit",
            },
            "Zhong et al. (2023): a pizza has symmetricity near 1 and irrelevance near 0; a clock the other way round.",
        ),
        "variance": Topic(
            "Formulas that explain the logits", "share of variance",
            {
                "clock_variance_explained": "clock: cos(w(a+b−c))",
                "pizza_variance_explained": "pizza and accompanying circles",
                "sum_explained_variance": "anything of a + b",
            },
            "At the key frequencies of the last step. With its accompanying circles a pizza fits even a pure clock to "
            "0.99: symmetricity and irrelevance tell them apart, not these.",
            SHARE,
        ),
        "trig": Topic(
            "Test loss over restricted loss", "ratio", {"trig_loss_ratio": "ratio"},
            "Rises while the circuit forms underneath what is memorised, and falls back once that is cleaned up.",
            logarithmic=True,
        ),
        "collapse": Topic(
            "Training pairs that float32 no longer tells apart", "share of training pairs",
            {"softmax_collapse": "softmax exactly one-hot", "zero_loss_share": "loss exactly 0"},
            "Prieto et al. (2025): with a loss in float32 such a pair has no gradient left.", SHARE, group="Numerics",
        ),
        "precision": Topic(
            "What float32 costs in the training loss", "nats",
            {"precision_gap": "|float32 − float64|", "train_loss": "training loss"},
            "Trouble begins where the difference comes near the loss itself.", logarithmic=True, group="Numerics",
        ),
    }
)  # fmt: skip
"""Every topic by name."""


def topic_curves(
    data: xr.Dataset,
    topic: str,
    *,
    events: Iterable[Event] = (),
    phases: Mapping[str, int | None] | None = None,
    axis: str | StepAxis = "log",
) -> go.Figure:
    """The curves of a topic (`TOPICS`), as many as there are.

    >>> data = xr.Dataset({"softmax_collapse": ("step", [0.0, 0.5])}, {"step": [0, 100]})
    >>> topic_curves(data, "collapse").data[0].name
    'softmax exactly one-hot'
    """
    if topic not in TOPICS:
        raise UnknownNameError(f"There is no topic `{topic}`. {did_you_mean(topic, TOPICS)}")
    found = TOPICS[topic]
    return measure_curves(
        data, found.variables, title=found.title, y=found.y, logarithmic=found.logarithmic, bounds=found.bounds,
        events=events, phases=phases, axis=axis,
    )  # fmt: skip
