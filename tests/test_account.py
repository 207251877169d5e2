"""Accounts: planted algorithms come back with their coefficients, as an explicit least-squares fit finds them."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from interp.analysis import account as module
from interp.analysis import advising
from interp.analysis.account import (
    PARTS,
    Account,
    Circuit,
    empty_account,
    fit_account,
    key_shares,
    phase_coherence,
    variance_explained,
)
from interp.analysis.advising import advice
from interp.analysis.certificate import certify
from interp.analysis.explaining import candidate_keys, other_keys
from interp.analysis.scrubbing import Scrubbed
from interp.errors import InvalidArgumentError
from interp.models.tables import PairTables
from interp.theory.groups import finite_group, irreps
from tests.test_certificate import planted_network, sums

RNG = np.random.default_rng


def circuit_of(x, W, *, bypass=None, symmetry=None, answers=None, activation="relu"):
    """A network of pre-activations and a neuron-logit map, with as many outputs as it has."""
    N = len(x)
    hidden = module.activated(activation, x)
    bypass = np.zeros((N, N, W.shape[1])) if bypass is None else bypass
    answers = sums(N) if answers is None else answers
    return Circuit(activation, x, hidden, W, bypass, hidden @ W + bypass, answers, symmetry or ("cyclic", N))


def fit(circuit, keys, **settings):
    N = circuit.N
    return fit_account(circuit, keys, **{"p": N, "operation": "add", "elements": np.arange(N), **settings})


def planted_account(rng, N, keys, per_key=5):
    """An account of random coefficients, on the functions that do not vanish."""
    n, K = per_key * len(keys), len(keys)
    cluster = np.repeat(np.arange(K), per_key)
    found = Account(
        p=N,
        operation="add",
        elements=np.arange(N),
        symmetry=("cyclic", N),
        activation="relu",
        keys=tuple(keys),
        alpha=np.zeros(K),
        alpha_from=np.zeros((K, 3)),
        cluster=cluster,
        beta=rng.normal(size=n),
        first=3 * rng.normal(size=(n, 4)),
        second=0.3 * rng.normal(size=(n, 4)),
        product=0.5 * rng.normal(size=(n, 4)),
        readout=np.zeros((n, 2 * K)),
        attention=np.zeros((2, 0, 0)),
        parameters=0,
    )
    found.readout[np.arange(n), 2 * cluster] = rng.choice([-1, 1], n) * rng.uniform(1, 2, n)
    found.readout[np.arange(n), 2 * cluster + 1] = rng.normal(size=n)
    found.readout[:] += 0.1 * rng.normal(size=found.readout.shape)
    for m, key in enumerate(np.asarray(keys)[cluster]):
        sine, double = 2 * key == N, min(2 * key % N, -2 * key % N)
        found.first[m, [1, 3]] *= not sine
        found.product[m, 1:] *= not sine
        found.second[m] *= double not in (0, key)
        found.second[m, [1, 3]] *= 2 * double != N
    for place, key in enumerate(keys):
        found.readout[:, 2 * place + 1] *= 2 * key != N
    return found


def explicit_functions(N, k):
    """The 13 functions of a neuron of frequency k, [pair, function], written out."""
    a, b = (x.ravel() for x in np.meshgrid(np.arange(N), np.arange(N), indexing="ij"))
    w = 2 * np.pi * k / N
    waves = [[np.cos(w * t), np.sin(w * t)] for t in (a, b)]
    doubles = [[np.cos(2 * w * t), np.sin(2 * w * t)] for t in (a, b)]
    products = [of_a * of_b for of_a in waves[0] for of_b in waves[1]]
    return np.stack([np.ones(N * N), *waves[0], *waves[1], *doubles[0], *doubles[1], *products], axis=1)


# --- planted coefficients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("N", "keys"),
    [
        (11, (1, 4)),
        (13, (2, 3, 6)),
        (12, (1, 5)),
        (12, (3, 5)),  # the double of 3 is N/2, whose sine vanishes
        (12, (6, 1)),  # N/2 itself: no sine, no second harmonic
        (12, (4, 1)),  # the double of N/3 is N/3 again
        (9, (3, 2)),
    ],
)
def test_planted_coefficients_come_back(N, keys):
    planted = planted_account(RNG(N), N, keys)
    circuit = circuit_of(planted.pre_activations(), planted.read_out(N + 1))
    found = fit(circuit, keys)
    for name in ("cluster", "beta", "first", "second", "product", "readout"):
        assert np.abs(getattr(found, name) - getattr(planted, name)).max() < 1e-10, name
    assert np.abs(found.pre_activations() - circuit.x).max() < 1e-10
    assert np.abs(found.read_out(N + 1) - circuit.W).max() < 1e-10
    assert variance_explained(circuit, found) == pytest.approx((1, 1), abs=1e-12)
    assert found.numbers == len(found.beta) * (14 + 2 * len(keys))


@pytest.mark.parametrize(("N", "key"), [(11, 4), (13, 6)])
def test_the_fit_is_least_squares_on_thirteen_functions(N, key):
    rng = RNG(0)
    circuit = circuit_of(rng.normal(size=(N, N, 7)), rng.normal(size=(7, N)))
    found = fit(circuit, [key])
    slow = np.linalg.lstsq(explicit_functions(N, key), circuit.x.reshape(N * N, -1), rcond=None)[0].T
    assert (
        np.abs(np.concatenate([found.beta[:, None], found.first, found.second, found.product], 1) - slow).max() < 1e-12
    )
    outputs = explicit_functions(N, key)[:N, 3:5]  # a = 0: the waves of b alone
    of_outputs = np.linalg.lstsq(outputs, circuit.W_centred.T, rcond=None)[0].T
    assert np.abs(found.readout - of_outputs).max() < 1e-12
    ideal = slow @ explicit_functions(N, key).T
    assert np.abs(found.pre_activations() - ideal.T.reshape(N, N, -1)).max() < 1e-12


@pytest.mark.parametrize("N", [9, 12])
def test_vanishing_functions_have_no_coefficients_and_take_nothing(N):
    rng = RNG(1)
    circuit = circuit_of(rng.normal(size=(N, N, 6)), rng.normal(size=(6, N)))
    for key in (N // 3, N // 2, N // 4):
        found = fit(circuit, [key])
        functions = explicit_functions(N, key)
        slow = functions @ np.linalg.lstsq(functions, circuit.x.reshape(N * N, -1), rcond=None)[0]
        assert np.abs(found.pre_activations() - slow.reshape(N, N, -1)).max() < 1e-12
    if N == 12:
        assert (fit(circuit, [6]).second == 0).all()
        assert (fit(circuit, [6]).first[:, 1::2] == 0).all()
        assert (fit(circuit, [3]).second[:, 1::2] == 0).all()
        assert (fit(circuit, [3]).second[:, ::2] != 0).all()
    assert (fit(circuit, [N // 3]).second == 0).all()


def test_a_neuron_belongs_to_the_key_that_it_reads_and_writes():
    a = 2 * np.pi * np.arange(11) / 11
    wave = {k: np.cos(k * a) for k in (1, 2, 3)}
    reads = np.stack([2 * wave[1] + wave[2], 2 * wave[1] + wave[2], wave[3]], 1)
    x = reads[:, None] + reads
    W = np.stack([wave[2] + 0.1 * wave[1], wave[1] + wave[2], wave[3] + 3 * wave[1]])
    # read 0.8 and 0.2, written 0.01 and 0.99: 2; read 0.8 and 0.2, written equally: 1; read 3 alone: 3
    assert fit(circuit_of(x, W), [1, 2, 3]).cluster.tolist() == [1, 0, 2]


def test_a_neuron_that_only_multiplies_belongs_to_the_frequency_of_its_product():
    N, rng = 13, RNG(2)
    planted = replace(planted_account(rng, N, (2, 5)), second=np.zeros((10, 4)))
    planted = replace(planted, first=np.zeros((10, 4)), product=rng.normal(size=(10, 4)))
    found = fit(circuit_of(planted.pre_activations(), planted.read_out(N)), (2, 5))
    assert (found.cluster == planted.cluster).all()
    assert np.abs(found.product - planted.product).max() < 1e-10


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("N", [7, 8, 9])
def test_shares_and_coefficients_are_those_of_the_transform(N):
    rng = RNG(N)
    circuit = circuit_of(rng.normal(size=(N, N, 5)), rng.normal(size=(5, N + 1)), bypass=rng.normal(size=(N, N, N + 1)))
    centred = circuit.logits[..., :N] - circuit.logits[..., :N].mean(-1, keepdims=True)
    F = np.fft.fftn(centred)
    shares, alpha = key_shares(circuit)
    for k in range(1, N // 2 + 1):
        own, twice = F[k, k, -k], 1 if 2 * k == N else 2
        assert shares[k - 1] == pytest.approx(twice * abs(own) ** 2 / (abs(F) ** 2).sum(), abs=1e-14)
        assert alpha[k - 1] == pytest.approx(twice * own.real / N**3, abs=1e-13)


def test_logits_of_known_coefficients():
    N, t = 13, np.arange(13)
    quotient = (t[:, None, None] + t[:, None] - t) % N
    logits = 3 * np.cos(2 * np.pi * 2 * quotient / N) + 0.05 * np.cos(2 * np.pi * 5 * quotient / N) + t[:, None]
    nothing = np.zeros((N, N, 0))
    circuit = Circuit("relu", nothing, nothing, np.zeros((0, N)), logits, logits, sums(N), ("cyclic", N))
    assert key_shares(circuit)[1].round(12).tolist() == [0, 3, 0, 0, 0.05, 0]
    assert candidate_keys(circuit) == (2,)  # 0.05^2/9 is less than one thousandth
    assert candidate_keys(circuit, named=[5]) == (2, 5)
    formula = replace(planted_account(RNG(0), N, (2, 5)), alpha=np.array([3, 0.05])).formula_logits(N + 1)
    assert np.abs(formula[..., :N] - (logits - t[:, None])).max() < 1e-12
    assert (formula[..., N] == 0).all()


@pytest.mark.parametrize("N", [22, 23])
def test_keys_of_the_control_are_neither_keys_nor_their_doubles(N):
    circuit = circuit_of(np.zeros((N, N, 1)), np.zeros((1, N)))
    for seed in range(20):
        found = other_keys(circuit, (1, 5), seed)
        assert len(found) == 2
        assert not {*found} & {1, 5, 2, 10}
    assert other_keys(circuit, (1, 5), 3) == other_keys(circuit, (1, 5), 3)
    assert len({other_keys(circuit, (1, 5), seed) for seed in range(20)}) > 1
    assert other_keys(circuit, tuple(range(1, N // 2 + 1))) == ()


# --- the idealised network --------------------------------------------------------------------------------------------


def test_sources_of_alpha_add_up_and_name_what_makes_it():
    N, rng = 13, RNG(3)
    planted = planted_account(rng, N, (2, 5), per_key=20)
    found = fit(circuit_of(planted.pre_activations(), planted.read_out(N)), (2, 5))
    assert np.abs(found.alpha_from.sum(1) - 1).max() < 1e-12
    for place, key in enumerate(found.keys):
        values = []
        for parts in (PARTS[:1], PARTS[:2], PARTS):
            L = np.maximum(found.pre_activations(parts), 0) @ found.read_out(N)
            values.append(2 * np.fft.fftn(L)[key, key, -key].real / N**3)
        assert np.abs(found.alpha_from[place] - np.diff([0, *values]) / values[-1]).max() < 1e-12
        assert found.alpha[place] == pytest.approx(values[-1], abs=1e-12)
    bare = replace(planted, product=np.zeros((40, 4)))
    assert (fit(circuit_of(bare.pre_activations(), bare.read_out(N)), (2, 5)).alpha_from[:, 2]).max() < 1e-12


def test_waves_are_amplitudes_and_phases():
    planted = planted_account(RNG(4), 13, (2, 5))
    t = 2 * np.pi * np.arange(13) / 13
    angle = np.outer(t, np.array(planted.keys)[planted.cluster])
    x = planted.beta
    for harmonic, times in (("first", 1), ("second", 2)):
        amplitude, phase = planted.waves(harmonic)
        of = amplitude * np.cos(times * angle[..., None] + phase)  # [t, neuron, operand]
        x = x + of[:, None, :, 0] + of[None, :, :, 1]
    assert np.abs(x - planted.pre_activations(PARTS[:2])).max() < 1e-12
    rho, chi = planted.own_readout()
    own = replace(planted, readout=planted.readout * np.repeat(np.eye(2)[planted.cluster], 2, axis=1))
    assert np.abs(rho[:, None] * np.cos(angle.T + chi[:, None]) - own.read_out(13)).max() < 1e-12


def test_phases_agree_where_planted_and_not_at_random():
    tables = planted_network(59, (3, 7, 20), 64)
    found = fit(circuit_of(tables.pre_activations(), tables.W_L), (3, 7, 20))
    assert np.abs(phase_coherence(found) - 1).max() < 1e-12
    rng = RNG(5)
    random = circuit_of(rng.normal(size=(59, 59, 192)), rng.normal(size=(192, 59)))
    coherence = phase_coherence(fit(random, (3, 7, 20)))
    assert coherence.max() < 0.4  # 64 random directions: 1/8 is expected
    assert phase_coherence(replace(found, cluster=0 * found.cluster))[1:].tolist() == [0, 0]


@pytest.mark.parametrize(("harmonic", "accuracy"), [(-0.113, 1.0), (0.113, 0.661)])
def test_planted_networks_of_the_specification(harmonic, accuracy):
    keys = (1, 7, 16)
    tables = planted_network(59, keys, 64, harmonic=harmonic, size=0.1)
    circuit = circuit_of(tables.pre_activations(), tables.W_L)
    assert candidate_keys(circuit) == keys
    found = fit(circuit, keys)
    network = Scrubbed(circuit).score(Scrubbed(circuit).logits).accuracy
    assert network == pytest.approx(accuracy, abs=2e-3)
    W_norm = np.linalg.norm(circuit.W_centred, axis=1)
    certificate = certify(tables, advice(found, 4, W_norm), circuit.answers)
    assert certificate.accuracy == pytest.approx(accuracy, abs=2e-3)
    assert variance_explained(circuit, found)[1] > 0.999
    without = fit(circuit, keys[:2])
    assert certify(tables, advice(without, 4, W_norm), circuit.answers).accuracy == 0
    if harmonic < 0:
        shuffled = replace(found, cluster=RNG(0).permutation(found.cluster))
        assert certify(tables, advice(shuffled, 4, W_norm), circuit.answers).accuracy == 0


@pytest.mark.parametrize("rank", [2, 4, 6])
def test_advice_has_as_many_directions_as_asked(rank):
    found = planted_account(RNG(6), 13, (2, 5))
    assert [d.shape for d in advice(found, rank, np.ones(10)).directions] == [(5, rank), (5, rank)]


# --- resampling -------------------------------------------------------------------------------------------------------


def test_resampling_keeps_what_is_inside_and_destroys_what_is_outside():
    N = 13
    tables = planted_network(N, (1, 3, 4), 16, size=0.2)
    circuit = circuit_of(tables.pre_activations(), tables.W_L)
    inside, outside = fit(circuit, (1, 3, 4)), fit(circuit, (2, 5, 6))
    scrubbed = Scrubbed(circuit)
    network = scrubbed.score(scrubbed.logits)
    assert network.accuracy == network.agreement == 1
    kept = scrubbed.resampled(inside)
    assert (kept.accuracy, kept.low, kept.high) == (1, 1, 1)
    assert kept.loss == pytest.approx(network.loss, rel=1e-4)
    assert scrubbed.converse(inside).accuracy < 0.3
    assert scrubbed.resampled(outside).accuracy < 0.3
    assert scrubbed.converse(outside).accuracy > 0.99
    again = scrubbed.resampled(inside, count=2, seed=3)
    assert again == scrubbed.resampled(inside, count=2, seed=3)


def test_resampled_logits_are_the_formula():
    rng, N = RNG(7), 7
    circuit = circuit_of(rng.normal(size=(N, N, 6)), rng.normal(size=(6, N)), bypass=rng.normal(size=(N, N, N)))
    found, scrubbed = fit(circuit, [2]), Scrubbed(circuit)
    x, ideal = (z.reshape(N * N, -1) for z in (circuit.x, found.pre_activations()))
    h, R, W = np.maximum(x, 0), circuit.bypass.reshape(N * N, -1), found.read_out(N)
    scores, converse = [], []
    for pi, other in scrubbed.permutations(4, 1):
        pi, other = pi.numpy(), other.numpy()
        L = np.maximum(ideal + (x - ideal)[pi], 0) @ W + h[pi] @ (circuit.W_centred - W) + R[other]
        scores.append((L.argmax(1) == circuit.answers.ravel()).mean())
        L = np.maximum(ideal[pi] + x - ideal, 0) @ circuit.W + R
        converse.append((L.argmax(1) == circuit.answers.ravel()).mean())
    found_scores = scrubbed.resampled(found, 4, 1)
    assert found_scores.accuracy == pytest.approx(np.mean(scores))
    assert (found_scores.low, found_scores.high) == (min(scores), max(scores))
    assert scrubbed.converse(found, 4, 1).accuracy == pytest.approx(np.mean(converse))


# --- groups -----------------------------------------------------------------------------------------------------------


def planted_group(family, n, names, neurons=None, seed=0):
    """A network whose neurons read single matrix entries of each operand and write their products' entries.

    sum over signs of s t relu(s u(a) + t v(b)) is an even-odd kernel of u and v, of which u v is the larger part; for
    entries u = rho(a)[i, j], v = rho(b)[j, k] their sum over j, read out along rho(c)[i, k], gives tr(rho(a b c^-1)).
    """
    group = finite_group(family, n)
    every = {irrep.name: irrep for irrep in irreps(group)}
    first, second, W = [], [], []
    for name in names:
        rho = every[name].matrices
        d = rho.shape[1]
        for i in range(d):
            for j in range(d):
                for k in range(d):
                    for s in (-1, 1):
                        for t in (-1, 1):
                            first.append(s * rho[:, i, j])
                            second.append(t * rho[:, j, k])
                            W.append(s * t * rho[:, i, k])
    first, second, W = np.stack(first, 1), np.stack(second, 1), np.stack(W)
    nothing = np.zeros((group.order, 1, group.order))
    tables = PairTables(
        activation="relu",
        W_L=W,
        constant=np.zeros(len(W)),
        first=first[:, None],
        second=second[:, None],
        bypass_constant=np.zeros(group.order),
        bypass_first=nothing,
        bypass_second=nothing,
        scores=None,
        rate=1.0,
        d_z=2,
        rounding={},
    )
    circuit = circuit_of(tables.pre_activations(), W, symmetry=(family, n), answers=group.table)
    return group, tables, circuit


def test_a_planted_group_network_is_read_and_certified_by_its_irreps():
    group, tables, circuit = planted_group("symmetric", 4, [i.name for i in irreps(finite_group("symmetric", 4))[2:4]])
    keys = candidate_keys(circuit)
    assert all(isinstance(key, str) for key in keys)
    assert keys == tuple(i.name for i in irreps(group)[2:4])
    found = fit_account(circuit, keys, p=24, operation="product", elements=np.arange(24))
    assert np.abs(found.pre_activations() - circuit.x).max() < 1e-12
    assert found.basis == "irrep"
    W_norm = np.linalg.norm(circuit.W_centred, axis=1)
    assert certify(tables, advice(found, 4, W_norm), group.table).accuracy == 1
    for key in keys:
        other = fit_account(circuit, [key], p=24, operation="product", elements=np.arange(24))
        assert certify(tables, advice(other, 4, W_norm), group.table).accuracy == 0
    shares, alpha = key_shares(circuit)
    L = circuit.centred
    for irrep, share, coefficient in zip(irreps(group), shares, alpha):
        chi = irrep.character[group.table[group.table][..., group.inverse]]
        assert coefficient == pytest.approx((L * chi).sum() / (chi**2).sum(), abs=1e-9)
        assert share == pytest.approx((L * chi).sum() ** 2 / (chi**2).sum() / (L**2).sum(), abs=1e-9)


# --- stored accounts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fitted", "empty", "group"])
def test_an_account_comes_back_from_its_files_to_the_bit(kind, tmp_path):
    if kind == "group":
        _, _, circuit = planted_group("dihedral", 5, [irreps(finite_group("dihedral", 5))[2].name])
        stored = fit_account(circuit, candidate_keys(circuit), p=10, operation="product", elements=np.arange(10))
    else:
        rng = RNG(8)
        circuit = circuit_of(rng.normal(size=(13, 13, 6)), rng.normal(size=(6, 14)))
        attention = rng.normal(size=(2, 13, 13, 3))
        stored = fit(circuit, (2, 5), attention=attention, parameters=7)
        if kind == "empty":
            stored = empty_account(circuit, p=13, operation="add", elements=np.arange(13))
    stored.save(tmp_path)
    found = Account.load(tmp_path)
    for field in fields(Account):
        before, after = getattr(stored, field.name), getattr(found, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            assert before.tobytes() == after.tobytes()
            assert before.shape == after.shape
        else:
            assert before == after
            assert type(before) is type(after)
    assert np.array_equal(found.pre_activations(), stored.pre_activations())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "account.json").unlink(),
        lambda folder: (folder / "account.safetensors").unlink(),
        lambda folder: (folder / "account.safetensors").write_bytes(b"no tensors"),
        lambda folder: (folder / "account.json").write_text("{"),
        lambda folder: (folder / "account.json").write_text('"text"'),
        lambda folder: (folder / "account.json").write_text("[]"),
        lambda folder: change(folder, format=2),
        lambda folder: change(folder, extra=1),
        lambda folder: change(folder, keys=None),
        lambda folder: change(folder, keys=[1]),  # two were stored
        lambda folder: change(folder, keys=[1, 7]),
    ],
)
def test_a_folder_that_holds_no_account_is_refused(spoil, tmp_path):
    planted_account(RNG(9), 13, (2, 5)).save(tmp_path)
    assert Account.load(tmp_path).keys == (2, 5)
    spoil(tmp_path)
    with pytest.raises(InvalidArgumentError, match=f"`folder` must hold an account; {tmp_path} does not"):
        Account.load(tmp_path)


def change(folder, **values):
    plain = json.loads((folder / "account.json").read_text())
    (folder / "account.json").write_text(json.dumps(plain | values))


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], "`keys` must be one or more"),
        ([0], r"frequencies in 1..6 for 13 elements; got \[0\]"),
        ([7], r"frequencies in 1..6"),
        (["sign"], r"frequencies in 1..6"),
        ([2, 2], r"must be distinct; got \[2, 2\]"),
    ],
)
@pytest.mark.usefixtures("as_users_run_it")
def test_keys_that_are_none_are_refused(keys, message):
    circuit = circuit_of(np.zeros((13, 13, 1)), np.zeros((1, 13)))
    with pytest.raises(InvalidArgumentError, match=message):
        fit(circuit, keys)


@pytest.mark.usefixtures("as_users_run_it")
def test_irreps_that_are_none_are_refused():
    _, _, circuit = planted_group("dihedral", 5, [irreps(finite_group("dihedral", 5))[2].name])
    for keys in (["nothing"], [1], [irreps(finite_group("dihedral", 5))[0].name]):
        with pytest.raises(InvalidArgumentError, match="must be irreps of D5"):
            fit_account(circuit, keys, p=10, operation="product", elements=np.arange(10))


def test_a_network_without_content_has_an_account():
    circuit = circuit_of(np.zeros((13, 13, 3)), np.zeros((3, 13)))
    assert key_shares(circuit)[0].tolist() == [0] * 6
    found = fit(circuit, [1, 2])
    assert np.isnan(variance_explained(circuit, found)).all()
    assert np.abs(found.pre_activations()).max() == 0
    assert (found.alpha_from == 0).all()


def test_a_neuron_that_is_never_cut_off_does_not_ruin_the_advice():
    """Its idealised activation is linear, so that it interacts no more than rounding does; its weight stays bounded."""
    scale = advising._scale(np.array([1.0, 4.0, 1.0, 1e-30, 0.0]), np.ones(5))
    assert np.allclose(scale[:3], [1.0, 2**0.5, 1.0])
    assert np.allclose(scale[3:], advising.LEAST_POWER**0.25)
    assert np.isfinite(advising._scale(np.zeros(3), np.zeros(3))).all()
