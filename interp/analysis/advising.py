"""Advice of an account to a certificate: clusters, weights and directions, which nobody has to trust.

The bound of `certificate` is sound for any advice. In a cluster with neurons h and read-out W it is best, by
Cauchy-Schwarz, for the weights s^2 = sqrt(v)/|W|, v being the power of what the neurons owe to both operands at once.
Everything here is computed from the account's numbers, and nothing from the network's activations: directions that are
chosen from data certify without the account.
"""

import numpy as np
from jaxtyping import Bool, Float, Inexact

from interp.analysis.account import Account
from interp.analysis.bases import products_of
from interp.analysis.certificate import Advice
from interp.models.tables import activated

__all__ = ["advice"]

LEAST_POWER = 1e-4
"""Power of a neuron's interactions below which its weight in a certificate does not fall, over the median's."""
TORUS = 48
"""Points per angle on which harmonics of an idealised neuron are computed."""
INTERACTIONS = ((1, 1), (1, -1), (2, 1), (1, 2), (2, 2), (2, -2), (2, -1), (1, -2))
"""Harmonics of a neuron that depend on both operands, as multiples of its frequency."""


def advice(account: Account, rank: int, W_norm: Float[np.ndarray, " n"]) -> Advice:
    """Advice of an account to `certify`: clusters, weights s, and up to `rank` directions in each cluster.

    Directions are the account's read-outs at the cluster's own frequency (times s), then real and imaginary part of
    the harmonic (1, -1) of its idealised neurons (over s), then of (1, 1): 2, 4 or 6. Irreps have one cluster, and all
    read-outs. `W_norm` are the norms of the neurons' rows of the centred neuron-logit map: by Cauchy-Schwarz the best
    weights are s^2 = sqrt(v)/|W|, v being the power of the account's harmonics in both operands.
    """
    n = len(account.beta)
    if not account.keys:
        return Advice(cluster=np.zeros(n, dtype=int), scale=np.ones(n), directions=(np.zeros((n, 0)),))
    functions = account.functions
    scale, harmonics = np.ones(n), {}
    for k in range(functions.clusters):
        own = functions.members(account.cluster, k)
        if not own.any():
            continue
        found = _interactions(account, own)  # [interaction, neuron]
        variance = 2 * np.square(np.abs(found)).sum(0)
        harmonics[k] = found
        scale[own] = _scale(variance, W_norm[own])
    directions = []
    for k in range(functions.clusters):
        own = functions.members(account.cluster, k)
        columns = [account.readout[own][:, functions.own_readouts[k]] * scale[own, None]]
        for row in (1, 0)[: max(0, rank - columns[0].shape[1]) // 2] if account.basis == "frequency" else ():
            z = harmonics[k][row] if k in harmonics else np.zeros(own.sum(), dtype=complex)
            columns.append(np.stack([z.real, z.imag], axis=1) / scale[own, None])
        joined = np.concatenate(columns, axis=1)
        directions.append(joined[:, :rank] if account.basis == "frequency" else joined)
    cluster = account.cluster if account.basis == "frequency" else np.zeros(n, dtype=int)
    return Advice(cluster=cluster, scale=scale, directions=tuple(directions))


def _interactions(account: Account, own: Bool[np.ndarray, " n"]) -> Inexact[np.ndarray, "interaction own"]:
    """Coefficients of the idealised neurons' dependence on both operands: [interaction, neuron].

    For frequencies the harmonics `INTERACTIONS`, on a torus of angles; for irreps one row, the root mean square of
    the part that is no sum of functions of one operand.
    """
    if account.basis == "irrep":
        h = activated(account.activation, account.pre_activations())[..., own]
        h = h - h.mean(0, keepdims=True) - h.mean(1, keepdims=True) + h.mean((0, 1))
        return np.sqrt(np.square(h).mean((0, 1)) / 2)[None]
    t = 2 * np.pi * np.arange(TORUS) / TORUS
    one, two = (np.stack([np.cos(j * t), np.sin(j * t)], axis=1) for j in (1, 2))
    first, second, product = account.first[own], account.second[own], account.product[own]
    a = account.beta[own] + one @ first[:, :2].T + two @ second[:, :2].T
    b = one @ first[:, 2:].T + two @ second[:, 2:].T
    x = a[:, None] + b + (products_of(one) @ product.T).reshape(TORUS, TORUS, -1)
    h = activated(account.activation, x)
    wave = np.exp(-1j * np.arange(-2, 3)[:, None] * t) / TORUS  # [j + 2, point]
    of_a = np.concatenate([wave.real, wave.imag]) @ h.reshape(TORUS, -1)
    of_a = (of_a[:5] + 1j * of_a[5:]).reshape(5, TORUS, -1)
    spectrum = wave @ of_a  # [j + 2, l + 2, neuron]
    return np.stack([spectrum[i + 2, j + 2] for i, j in INTERACTIONS])


def _scale(variance: np.ndarray, W_norm: np.ndarray) -> np.ndarray:
    """Weights s = (sqrt(v)/|W|)^(1/2), with v at least `LEAST_POWER` of the cluster's median.

    An idealised neuron that is never cut off interacts no more than rounding does; the network's own may.
    """
    interacting = variance[variance > 0]
    floor = LEAST_POWER * float(np.median(interacting)) if len(interacting) else 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.sqrt(np.sqrt(np.maximum(variance, floor)) / W_norm)
    good = np.isfinite(s) & (s > 0)
    return np.where(good, s, s[good].min() if good.any() else 1.0)
