"""Figures of labelled results: curves over training, the structure of the network at one step, panels of a report."""

from interp.plots.accounts import attention_maps, birth_curves, head_ablation_curves, margin_map, sentence_bars
from interp.plots.catalogue import ON_REQUEST, PANELS, draw_panel
from interp.plots.curves import (
    accuracy_curves,
    angle_curves,
    circularity_curves,
    irrep_curves,
    loss_curves,
    measure_curves,
    norm_curves,
    parameter_curves,
    progress_curves,
)
from interp.plots.mechanism import component_circles, head_spectra, neuron_phases
from interp.plots.panels import Panel, PanelContext, curve_panel
from interp.plots.structure import circle_animation, component_grid, embedding_circle, spectrum_bars, spectrum_heatmap
from interp.plots.sweeps import phase_diagram, steps_against

__all__ = [
    "ON_REQUEST",
    "PANELS",
    "Panel",
    "PanelContext",
    "accuracy_curves",
    "angle_curves",
    "attention_maps",
    "birth_curves",
    "circle_animation",
    "circularity_curves",
    "component_circles",
    "component_grid",
    "curve_panel",
    "draw_panel",
    "embedding_circle",
    "head_ablation_curves",
    "head_spectra",
    "irrep_curves",
    "loss_curves",
    "margin_map",
    "measure_curves",
    "neuron_phases",
    "norm_curves",
    "parameter_curves",
    "phase_diagram",
    "progress_curves",
    "sentence_bars",
    "spectrum_bars",
    "spectrum_heatmap",
    "steps_against",
]
