"""Figures of labelled results: curves over training, and the structure of the embedding at one step."""

from interp.plots.curves import (
    accuracy_curves,
    circularity_curves,
    loss_curves,
    measure_curves,
    norm_curves,
    progress_curves,
)
from interp.plots.structure import circle_animation, component_grid, embedding_circle, spectrum_bars, spectrum_heatmap

__all__ = [
    "accuracy_curves",
    "circle_animation",
    "circularity_curves",
    "component_grid",
    "embedding_circle",
    "loss_curves",
    "measure_curves",
    "norm_curves",
    "progress_curves",
    "spectrum_bars",
    "spectrum_heatmap",
]
