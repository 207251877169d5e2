"""Account of a network that adds, or composes the elements of a group: formulas with fitted coefficients, and no more.

For a network of one hidden layer, x[a, b] the pre-activations of its n neurons, L = act(x) W_L + R its logits,
w_k = 2 pi k/N, N operands in the order in which the operation adds, y = a + b. Key frequencies K are those that carry
more than `KEY_SHARE` of the squared logits along cos(w_k(a + b - c)). The account of a neuron m of the cluster of k is

    x^_m(a, b) = beta + A cos(w_k a + phi) + B cos(w_k b + psi)              first harmonic
                      + A2 cos(2 w_k a + phi2) + B2 cos(2 w_k b + psi2)      second harmonic
                      + (cos, sin)(w_k a) x (cos, sin)(w_k b), 4 terms       product, from attention
    W^_m(c)    = sum over K of coefficients x (cos, sin)(w_k c)              read-out

by least squares, and the idealised network is L^ = act(x^) W^, nothing else. A neuron belongs to the key for which
(share of x_m on it) (share of W_m on it) is largest. On a finite group the entries of key irreps take the places of
cosines and sines, of one operand each; there are no harmonics and no products.

Sources: the frequencies and clusters, Progress measures for grokking via mechanistic interpretability (Nanda et al.,
2023, arXiv:2301.05217); the network without R as a kernel over phases, A toy model of quadrature (Yip et al., 2024,
arXiv:2412.03773), who name second frequencies; irreps, A Toy Model of Universality (Chughtai et al., 2023,
arXiv:2302.03025).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from interp.analysis import irreps as irreps_module
from interp.analysis import logits as logits_module
from interp.analysis.bases import Basis, Functions, Symmetry, all_keys, basis_of, functions_of, products_of
from interp.errors import InvalidArgumentError
from interp.models.tables import ACTIVATIONS, activated
from interp.theory.groups import finite_group, irreps

__all__ = [
    "IRREP_SHARE",
    "KEY_SHARE",
    "Account",
    "Circuit",
    "empty_account",
    "fit_account",
    "key_shares",
    "phase_coherence",
    "variance_explained",
]

KEY_SHARE = 0.001
"""Share of the squared logits above which a frequency is key; 1 % is too high for some published networks."""
IRREP_SHARE = 0.02
"""Share of the squared logits above which an irrep is key."""

Part = Literal["first", "second", "product"]
PARTS: tuple[Part, ...] = ("first", "second", "product")
"""Parts of the idealised pre-activations, from the largest to the smallest."""


@dataclass(frozen=True, eq=False)
class Circuit:
    """A network on the grid of an account: operands in the order in which the operation adds, answers first.

    Entry [i, j] is the pair whose answer is the element of place `answers[i, j]`, so that subtraction has its second
    operand in the opposite order. Columns of outputs are the N elements as answers, then all other outputs.
    """

    activation: str
    """Non-linearity: relu or gelu."""
    x: Float[np.ndarray, "N N x"]
    """Pre-activations of the n neurons; none where they are no sums of terms of one token each."""
    hidden: Float[np.ndarray, "N N n"]
    """Activations of the neurons."""
    W: Float[np.ndarray, "n C"]
    """Neuron-logit map."""
    bypass: Float[np.ndarray, "N N C"]
    """Part of the logits that passes by the neurons."""
    logits: Float[np.ndarray, "N N C"]
    """Logits of the network."""
    answers: Int[np.ndarray, "N N"]
    """Place of the right answer."""
    symmetry: Symmetry
    """Family and size of the group whose product is the answer: ("cyclic", N) for sums."""

    @property
    def basis(self) -> Basis:
        """Functions in which an account of it is written."""
        return basis_of(self.symmetry)

    @property
    def N(self) -> int:
        """Number of elements."""
        return len(self.answers)

    @property
    def centred(self) -> Float[np.ndarray, "N N N"]:
        """Logits of the elements, minus their mean over the elements, which a softmax ignores."""
        return _centred(self.logits[..., : self.N])

    @property
    def W_centred(self) -> Float[np.ndarray, "n C"]:
        """Neuron-logit map minus its mean over the elements."""
        return self.W - self.W[:, : self.N].mean(1, keepdims=True)

    def activate(self, x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """The non-linearity."""
        return activated(self.activation, x)


@dataclass(frozen=True, eq=False)
class Account:
    """Formulas of a network with their coefficients; K keys, n neurons, N elements.

    For frequencies, `first` has the coefficients of cos(w a), sin(w a), cos(w b), sin(w b) at a neuron's key, `second`
    of twice that frequency, `product` of cos cos, cos sin, sin cos, sin sin (a, then b). For irreps, `first` has those
    of all entries of all keys at a, then at b, and the others are empty.

    Attributes:
        p: number of operands of the task.
        operation: add, subtract (of places in `elements`), or product (of a group).
        elements: operands in the order in which the operation adds, [N]; discrete logarithms for products mod p,
            without 0.
        symmetry: family and size of the group: ("cyclic", N) for sums.
        activation: non-linearity of the neurons.
        keys: the K key frequencies, or names of key irreps.
        alpha: coefficient of cos(w_k(a + b - c)), or of chi(a b c^-1), in the logits of the network, [K].
        alpha_from: share of the idealised network's alpha that comes with the first harmonic (through the
            non-linearity), with the second harmonic, and with the product (attention), [K, 3]; the three add up to 1.
        cluster: place of each neuron's key in `keys`, [n].
        beta: mean of each neuron's pre-activation, [n].
        first: coefficients of the first harmonic, [n, 4] for frequencies; in units of the pre-activations, as `second`
            and `product`.
        second: coefficients of the second harmonic, [n, 4].
        product: coefficients of the products, [n, 4].
        readout: coefficients of the read-out on (cos, sin)(w_k c) of each key in turn, [n, 2 K], or on the entries of
            the key irreps, in logits per unit of a neuron.
        attention: attention to the first operand and to the second, by head, as mean + f(a) + g(b), [2, head, 1 + 2 N]:
            the mean, then N values of f, then N of g. Without attention there is no head.
        parameters: number of parameters of the network.
    """

    p: int
    operation: str
    elements: Int[np.ndarray, " N"]
    symmetry: Symmetry
    activation: str
    keys: tuple[Any, ...]
    alpha: Float[np.ndarray, " key"]
    alpha_from: Float[np.ndarray, "key 3"]
    cluster: Int[np.ndarray, " n"]
    beta: Float[np.ndarray, " n"]
    first: Float[np.ndarray, "n first"]
    second: Float[np.ndarray, "n second"]
    product: Float[np.ndarray, "n product"]
    readout: Float[np.ndarray, "n readout"]
    attention: Float[np.ndarray, "operand head places"]
    parameters: int

    @property
    def basis(self) -> Basis:
        """Functions in which the account is written."""
        return basis_of(self.symmetry)

    @property
    def N(self) -> int:
        """Number of elements."""
        return len(self.elements)

    @property
    def is_empty_claim(self) -> bool:
        """Whether any network can be written in it, as in all irreps, so that its fit is no evidence."""
        return self.functions.clusters == 1 and sum(self.functions.widths) >= self.N - 1

    @property
    def has_pre_activations(self) -> bool:
        """Whether the account speaks of pre-activations, and not of the read-out alone."""
        return self.first.shape[1] > 0

    @property
    def numbers(self) -> int:
        """Number of reals that the account of neurons and read-out consists of."""
        return len(self.beta) + sum(x.size for x in (self.first, self.second, self.product, self.readout, self.cluster))

    @cached_property
    def functions(self) -> Functions:
        """Functions of the elements in which the account is written."""
        return functions_of(self.symmetry, self.keys)

    def save(self, folder: Path) -> None:
        """Write the account as account.json (everything but arrays) and account.safetensors into a folder."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _ARRAYS}
        (folder / "account.json").write_text(json.dumps({"format": 1, **plain}, indent=2) + "\n", encoding="utf-8")
        (folder / _TENSORS).write_bytes(save(arrays))  # with the permissions of any new file

    @classmethod
    def load(cls, folder: str | Path) -> "Account":
        """Account that `save` wrote.

        Raises:
            InvalidArgumentError: the folder holds no account, or one of another format.
        """
        folder = Path(folder)
        try:
            plain = dict(json.loads((folder / "account.json").read_text(encoding="utf-8")))
            arrays: dict[str, Any] = load_file(folder / _TENSORS)
            if plain.pop("format") != 1 or set(arrays) != set(_ARRAYS):
                raise ValueError("another format")
            plain |= {"keys": tuple(plain["keys"]), "symmetry": tuple(plain["symmetry"])}
            account = cls(**plain, **arrays)
            account._require_sizes()
            account._require_numbers()
            return account
        except OSError as error:
            raise InvalidArgumentError(
                f"`folder` must hold an account; {folder} does not: {Path(error.filename or _TENSORS).name} cannot be "
                f"read: {error.strerror or 'No such file or directory'}."
            ) from error
        except (ValueError, LookupError, TypeError, SafetensorError) as error:
            raise InvalidArgumentError(f"`folder` must hold an account; {folder} does not: {error}") from error

    def _require_sizes(self) -> None:
        """Raises ValueError where the arrays are not those of the account's keys."""
        n, K = len(self.beta), len(self.keys)
        order = self.symmetry[1] if self.basis == "frequency" else finite_group(*self.symmetry).order
        places = [*self.elements.tolist(), *self.cluster.flat]
        if len(self.elements) != order or not all(isinstance(place, int | np.integer) for place in places):
            raise ValueError(f"`elements` and `cluster` must be whole numbers, with {order} elements")
        functions = self.functions
        of_x = functions.sizes if self.has_pre_activations else (0, 0, 0)
        expected: dict[str, tuple[int, ...]] = {
            "alpha": (K,),
            "beta": (n,),
            "alpha_from": (K, 3),
            "cluster": (n,),
            "readout": (n, functions.answers.shape[1]),
        }
        expected |= {name: (n, size) for name, size in zip(PARTS, of_x)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"`{name}` has the sizes {list(getattr(self, name).shape)}, not {list(shape)}")
        if n and not 0 <= self.cluster.min() <= self.cluster.max() < max(K, 1):
            raise ValueError("neurons belong to clusters that it has not")

    def _require_numbers(self) -> None:
        """Raises ValueError where a number is not finite, or the non-linearity is none."""
        allowed = ACTIVATIONS if self.has_pre_activations else (*ACTIVATIONS, "none")
        if self.activation not in allowed:
            raise ValueError(f"`activation` must be one of {', '.join(allowed)}; got {self.activation!r}")
        for name in _ARRAYS:
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"`{name}` must hold finite numbers")

    def pre_activations(self, parts: Sequence[Part] = PARTS) -> Float[np.ndarray, "N N n"]:
        """Idealised pre-activations x^ of all pairs, of some parts of the account."""
        N, n, functions = self.N, len(self.beta), self.functions
        a, b = np.zeros((2, N, n))
        designs, coefficients = [], []
        for k in range(functions.clusters):
            own = functions.members(self.cluster, k)
            first, second = functions.first[k], functions.second[k]
            for name, waves in (("first", first), ("second", second)):
                if name in parts:
                    of_a, of_b = np.split(getattr(self, name)[own], 2, axis=1)
                    a[:, own] += waves @ of_a.T
                    b[:, own] += waves @ of_b.T
            if "product" in parts and self.product.shape[1]:
                designs.append(products_of(first))
                coefficients.append(np.where(own, self.product.T, 0.0))
        x = (self.beta + a)[:, None] + b
        if designs:  # one product of matrices for all clusters is faster than a sum for the neurons of each
            x += (np.concatenate(designs, axis=1) @ np.concatenate(coefficients)).reshape(N, N, n)
        return x

    def read_out(self, outputs: int) -> Float[np.ndarray, "n C"]:
        """Idealised read-out W^ to all outputs; 0 to those that are no elements."""
        W = np.zeros((len(self.beta), outputs))
        W[:, : self.N] = self.readout @ self.functions.answers.T
        return W

    def formula_logits(self, outputs: int) -> Float[np.ndarray, "N N C"]:
        """Logits sum over keys of alpha_k cos(w_k(a + b - c)), or chi(a b c^-1); 0 for outputs that are no elements."""
        found = np.zeros((self.N, self.N, outputs))
        found[..., : self.N] = (self.functions.characters @ self.alpha)[self.functions.quotient]
        return found

    def waves(self, harmonic: Literal["first", "second"] = "first") -> tuple[np.ndarray, np.ndarray]:
        """Amplitudes [n, operand] and phases [n, operand] of A cos(w a + phi), B cos(w b + psi); for frequencies."""
        cosine_a, sine_a, cosine_b, sine_b = getattr(self, harmonic).T
        z = np.stack([cosine_a - 1j * sine_a, cosine_b - 1j * sine_b], axis=1)
        return np.abs(z), np.angle(z)

    def own_readout(self) -> tuple[np.ndarray, np.ndarray]:
        """Amplitude rho [n] and phase chi [n] of the read-out rho cos(w_k c + chi) at each neuron's own frequency."""
        pairs = self.readout.reshape(len(self.readout), -1, 2)[np.arange(len(self.readout)), self.cluster]
        z = pairs[:, 0] - 1j * pairs[:, 1]
        return np.abs(z), np.angle(z)


_TENSORS = "account.safetensors"
_ARRAYS = (
    *("elements", "alpha", "alpha_from", "cluster", "beta", "first", "second", "product", "readout", "attention"),
)


def empty_account(circuit: Circuit, *, p: int, operation: str, elements: np.ndarray, parameters: int = 0) -> Account:
    """Account of a network that has no key: no formula, all of its neurons without one."""
    n = len(circuit.W)
    none = np.zeros((n, 0))
    return Account(
        p=p,
        operation=operation,
        elements=np.asarray(elements),
        symmetry=circuit.symmetry,
        activation=circuit.activation,
        keys=(),
        alpha=np.zeros(0),
        alpha_from=np.zeros((0, 3)),
        cluster=np.zeros(n, dtype=int),
        beta=np.zeros(n),
        first=none,
        second=none,
        product=none,
        readout=none,
        attention=np.zeros((2, 0, 0)),
        parameters=parameters,
    )


def key_shares(circuit: Circuit) -> tuple[Float[np.ndarray, " key"], Float[np.ndarray, " key"]]:
    """Share of the squared centred logits along each frequency (or irrep), and its coefficient alpha, for all of them.

    Frequencies 1 .. N // 2, with share 2 |F[k, k, -k]|^2 / sum |F|^2 and alpha (2/N^3) Re F[k, k, -k], F being the 3-D
    DFT of the centred logits; irreps in the order of `theory.groups.irreps`.

    >>> t = np.arange(7)
    >>> L = 3 * np.cos(2 * np.pi * 2 * (t[:, None, None] + t[:, None] - t) / 7)
    >>> none = np.zeros((7, 7, 0))
    >>> circuit = Circuit("relu", none, none, np.zeros((0, 7)), L, L, (t[:, None] + t) % 7, ("cyclic", 7))
    >>> shares, alpha = key_shares(circuit)
    >>> shares.round(6).tolist(), alpha.round(6).tolist()
    ([0.0, 1.0, 0.0], [0.0, 3.0, 0.0])
    """
    N, L = circuit.N, circuit.centred
    total = float(np.square(L).sum())
    if not total:
        count = len(all_keys(circuit.symmetry))
        return np.zeros(count), np.zeros(count)
    if circuit.basis == "frequency":
        spectrum = np.fft.rfft(logits_module.sum_spectrum(torch.from_numpy(L)).numpy())[1:]
        double = np.where(2 * np.arange(1, len(spectrum) + 1) == N, 1, 2)
        return double * np.abs(spectrum) ** 2 / (N**3 * total), double * spectrum.real / N**3
    group = finite_group(*circuit.symmetry)
    cosine = irreps_module.logit_similarity(torch.from_numpy(L), group).numpy()
    norms = np.array([np.sqrt(np.square(irrep.character).sum()) for irrep in irreps(group)]) * N
    return cosine**2, cosine * np.sqrt(total) / norms


def fit_account(
    circuit: Circuit,
    keys: Sequence[int] | Sequence[str],
    *,
    p: int,
    operation: str,
    elements: Int[np.ndarray, " N"],
    attention: Float[np.ndarray, "operand N N head"] | None = None,
    parameters: int = 0,
    cluster: Int[np.ndarray, " n"] | None = None,
    sources: bool = True,
) -> Account:
    """Account of a network with these keys, by least squares; `cluster` gives the clusters instead of finding them.

    `sources`: whether to find `alpha_from`, which takes most of the time; otherwise it is 0.

    Raises:
        InvalidArgumentError: a key is no frequency or irrep of the network's group, is named twice, or there is none.
    """
    if not len(keys):
        raise InvalidArgumentError(
            "`keys` must be one or more; got none. `empty_account` is that of a network without."
        )
    functions = functions_of(circuit.symmetry, tuple(keys))
    N, n = circuit.N, len(circuit.W)
    alphas = key_shares(circuit)[1]
    W = circuit.W_centred[:, :N]
    readout = _fitted(W.T, functions.answers)
    own_W = _by_key(readout**2 * _norms(functions.answers), functions.widths) / _positive(_norms(W.T))[:, None]
    first = second = product = np.zeros((n, 0))
    beta: np.ndarray
    if circuit.x.shape[-1]:
        beta = circuit.x.mean((0, 1))
        of_a, of_b = circuit.x.mean(1) - beta, circuit.x.mean(0) - beta  # [N, n]
        pairs = _products(circuit.x, functions)
        if cluster is None:
            cluster = (_own_x(circuit.x - beta, of_a, of_b, pairs, functions) * own_W).argmax(1)
        cluster = np.asarray(cluster)
        first, second, product = (np.zeros((n, size)) for size in functions.sizes)
        for k in range(functions.clusters):
            own = functions.members(cluster, k)
            waves, harmonics = functions.first[k], functions.second[k]
            first[own] = np.concatenate([_fitted(of_a[:, own], waves), _fitted(of_b[:, own], waves)], axis=1)
            if harmonics.shape[1]:
                second[own] = np.concatenate([_fitted(t[:, own], harmonics) for t in (of_a, of_b)], axis=1)
            if product.shape[1]:
                product[own] = pairs[k][own]
    else:
        cluster = own_W.argmax(1)
        beta = np.zeros((n,))
    account = Account(
        p=p,
        operation=operation,
        elements=np.asarray(elements),
        symmetry=circuit.symmetry,
        activation=circuit.activation,
        keys=functions.keys,
        alpha=alphas[functions.places],
        alpha_from=np.zeros((len(functions.keys), 3)),
        cluster=cluster,
        beta=beta,
        first=first,
        second=second,
        product=product,
        readout=readout,
        attention=_additive(attention),
        parameters=parameters,
    )
    return _with_sources(account) if sources else account


def variance_explained(circuit: Circuit, account: Account, parts: Sequence[Part] = PARTS) -> tuple[float, float]:
    """Shares of the variance of the pre-activations and of the centred logits that the idealised network explains.

    At most 1, and negative where the account is worse than the mean; NaN where there is nothing to explain. The number
    for the logits says little by itself: constants explain 0.04 to 0.15 for random networks.
    """
    x = account.pre_activations(parts)
    ideal = _centred((activated(account.activation, x) @ account.read_out(circuit.W.shape[1]))[..., : circuit.N])
    centred = circuit.centred
    spread = np.square(circuit.x - circuit.x.mean((0, 1))).sum()
    return _explained(np.square(circuit.x - x).sum(), spread), _explained(
        np.square(centred - ideal).sum(), np.square(centred).sum()
    )


def phase_coherence(account: Account) -> Float[np.ndarray, " key"]:
    """Agreement R_k of the read-out's phases with the sum of the operands' phases in each cluster, 0 to 1.

    R_k = |sum u exp(i(phi + psi - chi))| / sum u with u = min(A, B) rho; 1 where chi = phi + psi for all neurons, which
    adds up to cos(w_k(a + b - c)). 0 for a key without neurons. Defined for frequencies.
    """
    amplitude, phase = account.waves()
    rho, chi = account.own_readout()
    weight = amplitude.min(1) * rho
    arrows = weight * np.exp(1j * (phase.sum(1) - chi))
    found = np.zeros(len(account.keys))
    for k in range(len(account.keys)):
        own = account.cluster == k
        if (total := weight[own].sum()) > 0:
            found[k] = abs(arrows[own].sum()) / total
    return found


# --- pieces -----------------------------------------------------------------------------------------------------------


def _products(x: Float[np.ndarray, "N N n"], functions: Functions) -> list[Float[np.ndarray, "n product"]]:
    """Coefficients of each key's products of a function of a and one of b; none for irreps."""
    if not functions.sizes[2]:
        return []
    N, n = len(x), x.shape[-1]
    of_a = (functions.keyed.T @ x.reshape(N, N * n)).reshape(-1, N, n)  # [function of a, b, neuron]
    found = []
    for waves, mixed in zip(functions.first, np.split(of_a, len(functions.first))):
        inner = np.tensordot(waves, mixed, (0, 1))  # [function of b, function of a, neuron]
        norms = _positive(np.outer(_norms(waves), _norms(waves)))
        found.append((inner.transpose(2, 1, 0) / norms).reshape(n, -1))
    return found


def _own_x(
    varying: Float[np.ndarray, "N N n"],
    of_a: Float[np.ndarray, "N n"],
    of_b: Float[np.ndarray, "N n"],
    pairs: list[Float[np.ndarray, "n product"]],
    functions: Functions,
) -> Float[np.ndarray, "n key"]:
    """Share of each neuron's variance on each key: functions of one operand, and products of the key's functions."""
    N = len(varying)
    fits = (_fitted(table, functions.keyed) ** 2 * _norms(functions.keyed) for table in (of_a, of_b))
    power = N * np.add(*(_by_key(fit, functions.widths) for fit in fits))
    for k, product in enumerate(pairs):
        norms = _norms(functions.first[k])
        power[:, k] += product**2 @ np.outer(norms, norms).ravel()
    return power / _positive(np.square(varying).sum((0, 1)))[:, None]


def _with_sources(account: Account) -> Account:
    """The account with the sources of alpha: increments as parts of the pre-activations are added."""
    if not account.has_pre_activations:
        return account
    found = [
        _ideal_alpha(account, ("first",)),
        _ideal_alpha(account, ("first", "second")),
        _ideal_alpha(account, PARTS),
    ]
    increments = np.diff(np.stack(found, axis=1), axis=1, prepend=0)
    last = found[-1][:, None]
    shares = np.divide(increments, last, out=np.zeros_like(increments), where=last != 0)
    return replace(account, alpha_from=shares)


def _ideal_alpha(account: Account, parts: Sequence[Part]) -> Float[np.ndarray, " key"]:
    """Coefficients alpha of the idealised network's logits."""
    h = activated(account.activation, account.pre_activations(parts))
    N, functions = account.N, account.functions
    if account.basis == "irrep":
        W = account.read_out(N)
        ideal = h @ W
        circuit = Circuit(account.activation, h, h, W, ideal, ideal, functions.quotient[..., 0], account.symmetry)
        return key_shares(circuit)[1][functions.places]
    found = np.empty(len(account.keys))
    of_a = (functions.keyed.T @ h.reshape(N, -1)).reshape(len(account.keys), 2, N, -1)  # [key, cos or sin, b, neuron]
    for i, k in enumerate(account.keys):
        cosines, sines = (np.tensordot(functions.first[i], table, (0, 0)) for table in of_a[i])  # [cos or sin of b, n]
        spectrum = cosines[0] - sines[1] - 1j * (cosines[1] + sines[0])
        cosine, sine = account.readout[:, 2 * i], account.readout[:, 2 * i + 1]
        norm = np.square(functions.answers[:, 2 * i : 2 * i + 2]).sum(0)
        # the sum over c of W^ exp(i w c) is cosine |cos|^2 + i sine |sin|^2, the other keys being orthogonal
        F = (spectrum * (cosine * norm[0] + 1j * sine * norm[1])).sum()
        found[i] = (1 if 2 * int(k) == N else 2) * F.real / N**3
    return found


def _additive(attention: np.ndarray | None) -> Float[np.ndarray, "operand head places"]:
    """Attention [operand, N, N, head] as mean, f(a), g(b)."""
    if attention is None:
        return np.zeros((2, 0, 0))
    mean = attention.mean((1, 2))  # [operand, head]
    f, g = attention.mean(2) - mean[:, None], attention.mean(1) - mean[:, None]  # [operand, N, head]
    return np.concatenate([mean[:, :, None], np.moveaxis(f, 1, 2), np.moveaxis(g, 1, 2)], axis=2)


def _explained(left: float, total: float) -> float:
    return float(1 - left / total) if total > 0 else float("nan")


def _fitted(table: Float[np.ndarray, "N m"], waves: Float[np.ndarray, "N f"]) -> Float[np.ndarray, "m f"]:
    """Coefficients of the columns of a table on orthogonal functions; 0 on one that vanishes."""
    return table.T @ waves / _positive(_norms(waves))


def _norms(waves: Float[np.ndarray, "N f"]) -> Float[np.ndarray, " f"]:
    return np.square(waves).sum(0)


def _by_key(power: Float[np.ndarray, "m f"], widths: Sequence[int]) -> Float[np.ndarray, "m key"]:
    return np.stack([part.sum(1) for part in np.split(power, np.cumsum(widths)[:-1], axis=1)], axis=1)


def _positive(x: np.ndarray) -> Any:
    """Divisors, with 1 in the place of 0: of neurons or functions that vanish."""
    return np.where(x > 0, x, 1.0)


def _centred(L: np.ndarray) -> np.ndarray:
    return L - L.mean(-1, keepdims=True)
