"""A run that groks, planted: what every panel must show is known beforehand."""

from dataclasses import replace

import numpy as np
import xarray as xr

from interp.milestones import find
from interp.milestones.phases import Phases

KEYS = (17, 5, 41, 29)  # frequencies at p = 113, strongest first: PC 1-2 is a circle of frequency 17
TRAIN_STEP, TEST_STEP = 130, 1240
EVENTS = [(TRAIN_STEP, "train accuracy reaches 99 %"), (TEST_STEP, "test accuracy reaches 99 %")]
PHASES = {"memorisation_end": 180, "circuit_formation_end": 1000, "cleanup_end": 1700}


def milestones(data, metrics):
    """The milestones of a planted run, with `PHASES` for its training phases and no change points."""
    return replace(find((data, metrics)), phases=Phases(**PHASES), boundaries={})


def rise(step, middle, width):
    return 1 / (1 + np.exp(-(step - middle) / width))


def planted_run(p=113, checkpoints=400, last=5187, seed=0):
    """(data, metrics) of a run that memorises at step 130 and generalises at step 1240."""
    draw = np.random.default_rng(seed)
    step = np.round(np.linspace(0, last, checkpoints)).astype(int)
    token, frequency, component = np.arange(p), np.arange(1, (p - 1) // 2 + 1), np.arange(1, 9)

    # the embedding: noise that turns into four circles, at slightly different times
    early, late = draw.normal(size=(2, p, 8))
    turn = step[:, None, None] / last
    noise = np.cos(4 * turn) * early + np.sin(4 * turn) * late
    coordinates = 0.13 * (1.15 - 0.85 * rise(step, 1300, 160))[:, None, None] * noise
    power = 0.35 * (1.1 - 0.9 * rise(step, 1300, 160))[:, None] * draw.chisquare(8, size=(1, frequency.size)) / 8
    power = power * (1 + 0.1 * draw.normal(size=power.shape))
    keys = KEYS if p == 113 else (3, 2, 5, 4)
    for i, k in enumerate(keys):
        size = (0.62 - 0.09 * i) * rise(step, 640 + 110 * i, 150 + 25 * i)
        angle = 2 * np.pi * k * token / p
        coordinates[:, :, 2 * i] += size[:, None] * np.cos(angle)
        coordinates[:, :, 2 * i + 1] += size[:, None] * np.sin(angle)
        power[:, k - 1] += p * size**2 / 4
    every = np.arange(0, last + 1)
    metrics = xr.Dataset(_losses(every, p, draw), coords={"step": every})
    metrics["test_loss"] = metrics["test_loss"].where(metrics["step"] % 10 == 0)
    metrics["test_accuracy"] = metrics["test_accuracy"].where(metrics["step"] % 10 == 0)
    at = metrics.sel(step=step)
    parameters = ["embed.W_E", "pos_embed.W_pos", "blocks.0.attn.W_O", "blocks.0.mlp.W_in", "unembed.W_U"]
    square = 900 + 900 * rise(step, 250, 60) - 950 * rise(step, 1300, 180) - 0.01 * step
    share = np.array([0.24, 0.02, 0.2, 0.3, 0.24])
    circularity = 0.05 + 0.93 * rise(step, 900, 190)
    loss = np.log(p)
    similarity = np.zeros((step.size, frequency.size))
    for i, k in enumerate(keys):
        similarity[:, k - 1] = (0.55 - 0.06 * i) * rise(step, 700 + 80 * i, 160)
    keyed = np.isin(frequency, keys)[None, :] & (step >= 600)[:, None]
    line, spectral = ("step",), ("step", "frequency")
    data = xr.Dataset(
        {
            **{name: (line, _losses(step, p, draw)[name][1]) for name in ("train_loss", "train_accuracy")},
            **{name: (line, _losses(step, p, draw)[name][1]) for name in ("test_loss", "test_accuracy")},
            "all_loss": (line, 0.3 * at["train_loss"].values + 0.7 * _losses(step, p, draw)["test_loss"][1]),
            "weight_norm": (line, np.sqrt(square)),
            "sum_of_squares": (line, square),
            "sum_of_squares_by_parameter": (("step", "parameter"), square[:, None] * share),
            "embedding_power": (spectral, power),
            "embedding_coordinates": (("step", "token", "component"), coordinates),
            "embedding_variance_ratio": (("step", "component"), np.tile(np.linspace(0.3, 0.05, 8), (step.size, 1))),
            "circularity": (line, circularity),
            "circularity_by_component": (
                ("step", "component"),
                circularity[:, None] ** np.linspace(0.8, 1.6, 8)[None, :],
            ),
            "circle_resultant": (line, 0.08 + 0.9 * rise(step, 800, 150)),
            "circle_order_correlation": (line, np.clip(0.1 + 0.9 * rise(step, 760, 130), 0, 1)),
            "circle_stride": (line, np.full(step.size, pow(keys[0], -1, p))),
            "logit_similarity": (spectral, similarity),
            "neuron_cluster_size": (spectral, np.round(similarity * 230)),
            "key_frequency_logit": (spectral, keyed),
            "key_frequency_neuron": (spectral, keyed),
            "key_frequency_embedding": (spectral, keyed),
            "restricted_loss_logit": (line, loss * np.exp(-17 * rise(step, 1150, 260)) + 1e-7),
            "restricted_loss_neuron": (line, loss * np.exp(-14 * rise(step, 1200, 260)) + 1e-6),
            "excluded_loss_2d": (line, 1e-3 + loss * (np.exp(-step / 35) + 1.6 * rise(step, 800, 120))),
            "excluded_loss_3d": (line, 1e-3 + loss * (np.exp(-step / 35) + 1.4 * rise(step, 850, 130))),
            "gini_embedding": (line, 0.32 + 0.6 * rise(step, 900, 200)),
            "gini_unembedding": (line, 0.30 + 0.65 * rise(step, 820, 200)),
            **_inside(step, keys, frequency.size, square[:, None] * share, similarity),
        },
        coords={
            "step": step,
            "frequency": frequency,
            "token": token,
            "component": component,
            "parameter": parameters,
        },
    )
    return data, metrics


def _inside(step, keys, frequencies, by_parameter, similarity):
    """What the mechanism and the numerics show: heads that take a frequency each, neurons on the diagonal."""
    line, neuron = ("step",), np.arange(24)
    grown = rise(step, 900, 200)
    phase = (2 * np.pi * neuron / neuron.size) - np.pi
    scores = np.stack([similarity * (np.arange(frequencies) + 1 == k) for k in keys], axis=1)
    change = np.diff(by_parameter, axis=0, prepend=by_parameter[:1] * np.nan)
    pairs = np.repeat(keys, 2)[None] * np.ones((step.size, 1), int)
    score = {"gradient_symmetricity": 1 - grown, "distance_irrelevance": 0.9 + 0 * grown}
    share = {"clock_variance_explained": 0.9 * grown, "pizza_variance_explained": 0.6 * grown}
    mirror = {"test_accuracy_mirrored": rise(step, 600, 60), "test_accuracy_unmirrored": rise(step, 1100, 60)}
    rank = {"effective_rank_embedding": 30 - 22 * grown, "participation_ratio_embedding": 20 - 12 * grown}
    health = {"softmax_collapse": 0.3 * grown, "zero_loss_share": 0.2 * grown, "precision_gap": 1e-8 + 0 * grown}
    rest = {"trig_loss_ratio": 1 + 99 * grown, "rqi": 0.2 * grown}
    return {
        **{name: (line, values) for name, values in (score | share | mirror | rank | health | rest).items()},
        "gradient_norm_by_parameter": (("step", "parameter"), np.sqrt(by_parameter) * 1e-4),
        "update_norm_by_parameter": (("step", "parameter"), np.abs(change) * 1e-3),
        "subspace_angle": (("step", "angle"), np.pi / 2 * (1 - np.stack([grown, grown**2], axis=1))),
        "component_pair_circularity": (("step", "component"), grown[:, None] * np.ones(8)),
        "component_frequency": (("step", "component"), pairs),
        "attention_score_power": (("step", "head", "frequency"), scores),
        "neuron_frequency": (("step", "neuron"), np.tile(np.resize(keys, neuron.size), (step.size, 1))),
        "neuron_frequency_share": (("step", "neuron"), grown[:, None] * np.where(neuron < 20, 1.0, 0.5)),
        "neuron_phase_first": (("step", "neuron"), np.tile(phase, (step.size, 1))),
        "neuron_phase_second": (("step", "neuron"), np.tile(phase, (step.size, 1))),
    }


def never_grokked(p=23, checkpoints=30, last=900):
    """(data, metrics) of a run that memorises and stays there: no circle, no key frequency."""
    data, metrics = planted_run(p, checkpoints, last)
    flat = {"test_accuracy": 0.02, "circularity": 0.1, "circle_resultant": 0.1, "circle_order_correlation": 0.1}
    data = data.assign({name: data[name] * 0 + value for name, value in flat.items()})
    data = data.assign(test_loss=data["test_loss"] * 0 + 8.0, key_frequency_logit=data["key_frequency_logit"] & False)
    return data, metrics.assign(
        test_accuracy=metrics["test_accuracy"] * 0 + 0.02, test_loss=metrics["test_loss"] * 0 + 8
    )


def _losses(step, p, draw):
    jitter = np.exp(0.04 * draw.normal(size=step.size))
    top = np.log(p)
    train = top * np.exp(-9 * rise(step, 110, 28) * (1 - np.exp(-step / 60))) * jitter + 2e-7
    train = train * np.exp(-4 * rise(step, 900, 400))
    bump = 5.2 * rise(step, 150, 35)
    test = (top + bump) * np.exp(-15.5 * rise(step, 1290, 95)) * jitter + 4e-7
    accuracy_train = np.clip(1 / p + (1 - 1 / p) * rise(step, 92, 8), 0, 1)
    accuracy_test = np.clip(1 / p + 0.03 * rise(step, 150, 60) + 0.96 * rise(step, 1050, 42), 0, 1)
    pairs = {"train_loss": train, "test_loss": test, "train_accuracy": accuracy_train, "test_accuracy": accuracy_test}
    return {name: ("step", values) for name, values in pairs.items()}
