"""Groups by their laws, irreps by theirs, and the tasks against products taken point by point."""

import itertools
import math
import re

import numpy as np
import pytest
import torch

from interp.config import Group, Modular, RunConfig
from interp.errors import ConfigError, InvalidArgumentError
from interp.tasks import build_task
from interp.tasks.base import pair_task
from interp.tasks.declared import Residues
from interp.theory import groups
from interp.theory.groups import finite_group, irreps

SMALL = [
    ("cyclic", 3),
    ("cyclic", 7),
    ("cyclic", 8),
    ("dihedral", 3),
    ("dihedral", 4),
    ("dihedral", 7),
    ("dihedral", 8),
    ("symmetric", 3),
    ("symmetric", 4),
    ("symmetric", 5),
    ("alternating", 3),
    ("alternating", 4),
    ("alternating", 5),
]
LARGE = [("cyclic", 113), ("dihedral", 59), ("symmetric", 6), ("alternating", 6)]
every_group = pytest.mark.parametrize(("family", "n"), SMALL + LARGE)
small_group = pytest.mark.parametrize(("family", "n"), SMALL)


def cycle_type(permutation):
    seen, lengths = set(), []
    for start in range(len(permutation)):
        length, point = 0, start
        while point not in seen:
            seen.add(point)
            point, length = permutation[point], length + 1
        if length:
            lengths.append(length)
    return tuple(sorted(lengths, reverse=True))


def elements_of_type(group, *lengths):
    return [x for x, permutation in enumerate(group.permutations.tolist()) if cycle_type(permutation) == lengths]


# --- groups -----------------------------------------------------------------------------------------------------------


@every_group
def test_group_axioms(family, n):
    group = finite_group(family, n)
    x = np.arange(group.order)
    assert group.table.shape == (group.order, group.order)
    assert (group.table[0] == x).all()
    assert (group.table[:, 0] == x).all()
    assert (group.table[x, group.inverse] == 0).all()
    assert (group.table[group.inverse, x] == 0).all()
    a, b, c = np.random.default_rng(0).integers(group.order, size=(3, 20_000))
    assert (group.table[group.table[a, b], c] == group.table[a, group.table[b, c]]).all()
    assert len(set(group.names)) == group.order
    assert group.order == Group(family=family, n=n).order
    assert group.name == Group(family=family, n=n).slug


@small_group
def test_the_product_is_first_x_then_y(family, n):
    group = finite_group(family, n)
    elements = [tuple(permutation) for permutation in group.permutations.tolist()]
    position = {element: x for x, element in enumerate(elements)}
    for (x, first), (y, then) in itertools.product(enumerate(elements), repeat=2):
        assert group.table[x, y] == position[tuple(then[first[point]] for point in range(n))]


def test_orders_and_the_order_of_the_elements():
    families = ("cyclic", "dihedral", "symmetric", "alternating")
    assert [finite_group(family, 6).order for family in families] == [6, 12, 720, 360]
    strings = ["".join(digits) for digits in itertools.permutations("01234")]  # as the tokens of openai/grok
    assert list(groups.symmetric(5).names) == strings
    even = [name for name in strings if sum(a > b for a, b in itertools.combinations(name, 2)) % 2 == 0]
    assert list(groups.alternating(5).names) == even


@pytest.mark.parametrize("n", [3, 4, 7])
def test_the_dihedral_table_is_the_rule_for_reflections(n):
    """r^a s^b r^c s^d = r^(a + (-1)^b c) s^(b + d), element a + n b: the table of Chughtai et al.'s code."""
    table = groups.dihedral(n).table
    for a, b, c, d in itertools.product(range(n), range(2), range(n), range(2)):
        assert table[a + n * b, c + n * d] == (a + (-1) ** b * c) % n + n * ((b + d) % 2)


def test_cyclic_groups_add():
    x = np.arange(113)
    assert (groups.cyclic(113).table == (x[:, None] + x) % 113).all()


def test_the_table_of_s5_is_that_of_openai_grok():
    elements = list(map(np.array, itertools.permutations(range(5))))
    names = ["".join(map(str, b[a])) for a in elements for b in elements]
    S = groups.symmetric(5)
    assert [S.names[product] for product in S.table.flatten()] == names


# --- irreps -----------------------------------------------------------------------------------------------------------


@every_group
def test_irreps_are_orthogonal_homomorphisms(family, n):
    group = finite_group(family, n)
    # x y = z for all x, and for y from which all elements are products: neighbours of the identity and a random few
    y = np.unique(np.r_[np.arange(min(30, group.order)), np.random.default_rng(0).integers(group.order, size=20)])
    for irrep in irreps(group):
        rho = irrep.matrices
        d = irrep.dimension
        np.testing.assert_allclose(rho.mT @ rho, np.broadcast_to(np.eye(d), rho.shape), atol=1e-13)
        products = np.einsum("xij,yjk->xyik", rho, rho[y], optimize=True)
        np.testing.assert_allclose(products, rho[group.table[:, y]], atol=1e-13)


@every_group
def test_characters_are_orthogonal_class_functions_and_complete(family, n):
    group, found = finite_group(family, n), irreps(finite_group(family, n))
    characters = np.stack([irrep.character for irrep in found])
    commutant = [irrep.commutant for irrep in found]
    assert set(commutant) <= {1, 2}
    np.testing.assert_allclose(characters @ characters.T / group.order, np.diag(commutant), atol=1e-12)
    conjugates = group.table[group.table, group.inverse[:, None]]  # g x g^-1 at [g, x]
    classes = np.unique(conjugates.min(axis=0), return_inverse=True)[1]
    first = np.unique(classes, return_index=True)[1]
    np.testing.assert_allclose(characters, characters[:, first[classes]], atol=1e-13)
    # a real irrep of complex type is two complex ones, and there are as many of those as classes
    assert sum(commutant) == classes.max() + 1
    assert sum(irrep.dimension**2 / m for irrep, m in zip(found, commutant)) == group.order
    assert len({irrep.name for irrep in found}) == len(found)
    assert found[0].name == "trivial"
    assert (found[0].matrices == 1).all()


@every_group
def test_matrix_entries_are_an_orthonormal_basis(family, n):
    group = finite_group(family, n)
    found = irreps(group)
    Q = np.concatenate([irrep.basis for irrep in found], axis=1)
    assert Q.shape == (group.order, group.order)
    np.testing.assert_allclose(Q.T @ Q, np.eye(group.order), atol=1e-12)
    for irrep in found:
        entries = irrep.matrices.reshape(group.order, -1)
        np.testing.assert_allclose(irrep.basis @ (irrep.basis.T @ entries), entries, atol=1e-12)  # all of them


@pytest.mark.parametrize(("family", "n"), [("cyclic", 7), ("cyclic", 8), ("alternating", 3), ("alternating", 4)])
def test_complex_type_is_two_dimensional_rotations(family, n):
    found = [irrep for irrep in irreps(finite_group(family, n)) if irrep.commutant == 2]
    assert found
    for irrep in found:
        assert irrep.dimension == 2
        np.testing.assert_allclose(np.linalg.det(irrep.matrices), 1.0)


@pytest.mark.parametrize(("family", "n"), [("symmetric", 4), ("alternating", 4), ("alternating", 5), ("dihedral", 6)])
def test_commutant_is_the_dimension_of_what_commutes(family, n):
    for irrep in irreps(finite_group(family, n)):
        d, rho = irrep.dimension, irrep.matrices
        eye = np.eye(d)
        equations = np.concatenate([np.kron(matrix, eye) - np.kron(eye, matrix.T) for matrix in rho])
        assert d * d - np.linalg.matrix_rank(equations) == irrep.commutant


def test_irreps_of_symmetric_groups_by_name():
    one = {"trivial": 1, "sign": 1}
    others = {"standard": 4, "standard_sign": 4, "(3, 2)": 5, "(3, 1, 1)": 6, "(2, 2, 1)": 5}
    for n, dimensions in [
        (3, one | {"standard": 2}),
        (4, one | {"standard": 3, "standard_sign": 3, "(2, 2)": 2}),
        (5, one | others),
    ]:
        S = groups.symmetric(n)
        found = {irrep.name: irrep for irrep in irreps(S)}
        assert list(found) == list(dimensions)
        assert {name: irrep.dimension for name, irrep in found.items()} == dimensions
        fixed = (S.permutations == np.arange(n)).sum(axis=1)
        np.testing.assert_allclose(found["standard"].character, fixed - 1, atol=1e-13)
        sign = [round(np.linalg.det(np.eye(n)[permutation])) for permutation in S.permutations]
        np.testing.assert_allclose(found["sign"].character, sign)
        if n > 3:
            np.testing.assert_allclose(found["standard_sign"].character, sign * (fixed - 1), atol=1e-13)


def test_characters_of_s5_are_those_of_the_textbook():
    """James and Kerber (1981), appendix I: the values on the cycle types 2, 2+2, 3, 3+2, 4 and 5."""
    S = groups.symmetric(5)
    types = [(2, 1, 1, 1), (2, 2, 1), (3, 1, 1), (3, 2), (4, 1), (5,)]
    table = {"(3, 2)": [1, 1, -1, 1, -1, 0], "(3, 1, 1)": [0, -2, 0, 0, 0, 1], "(2, 2, 1)": [-1, 1, -1, -1, 1, 0]}
    for irrep in irreps(S):
        for lengths, value in zip(types, table.get(irrep.name, [])):
            np.testing.assert_allclose(irrep.character[elements_of_type(S, *lengths)], value, atol=1e-13)
    assert {irrep.name for irrep in irreps(S)} > set(table)


def test_the_icosahedral_pair_of_a5_has_the_golden_ratio():
    A = groups.alternating(5)
    pair = {irrep.name: irrep for irrep in irreps(A) if irrep.name.startswith("(3, 1, 1)")}
    assert set(pair) == {"(3, 1, 1)+", "(3, 1, 1)-"}
    golden = (1 + math.sqrt(5)) / 2
    for irrep in pair.values():
        assert irrep.commutant == 1
        np.testing.assert_allclose(np.linalg.det(irrep.matrices), 1.0)  # rotations of the icosahedron
        values = irrep.character[elements_of_type(A, 5)]
        assert sorted(values) == pytest.approx([1 - golden] * 12 + [golden] * 12)
    total = sum(irrep.character for irrep in pair.values())
    S = groups.symmetric(5)
    whole = next(irrep for irrep in irreps(S) if irrep.name == "(3, 1, 1)").character
    np.testing.assert_allclose(total, whole[[S.names.index(name) for name in A.names]], atol=1e-13)


def test_irreps_of_dihedral_groups_by_name():
    assert [irrep.name for irrep in irreps(groups.dihedral(5))] == ["trivial", "sign", "frequency 1", "frequency 2"]
    D = groups.dihedral(6)
    found = {irrep.name: irrep for irrep in irreps(D)}
    assert list(found) == ["trivial", "sign", "alternating", "alternating_sign", "frequency 1", "frequency 2"]
    r, s = D.names.index("r1"), D.names.index("r0s")
    values = {name: (irrep.character[r], irrep.character[s]) for name, irrep in found.items()}
    assert values["sign"] == (1, -1)
    assert values["alternating"] == (-1, 1)
    assert values["alternating_sign"] == (-1, -1)
    assert values["frequency 2"] == pytest.approx((2 * math.cos(2 * math.pi / 3), 0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: groups.cyclic(2), "`n` of cyclic groups must be a whole number >= 3; got 2."),
        (lambda: groups.dihedral(2.5), "`n` of dihedral groups must be a whole number >= 3; got 2.5."),
        (lambda: groups.symmetric(7), "`n` of symmetric groups must be a whole number in 3 .. 6; got 7."),
        (lambda: groups.alternating(True), "`n` of alternating groups must be a whole number in 3 .. 6; got True."),
        (
            lambda: finite_group("quaternion", 8),
            "`family` must be one of cyclic, dihedral, symmetric, alternating; got 'quaternion'.",
        ),
    ],
)
def test_groups_that_do_not_exist_are_refused(call, message):
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        call()


# --- tasks ------------------------------------------------------------------------------------------------------------

OPERATIONS = {
    "compose": lambda a, b, after, inverse: after(a, b),
    "conjugate": lambda a, b, after, inverse: after(after(a, b), inverse(a)),
    "aba": lambda a, b, after, inverse: after(after(a, b), a),
}


@pytest.mark.parametrize("operation", list(OPERATIONS))
@pytest.mark.parametrize(("family", "n"), [("symmetric", 4), ("alternating", 4), ("dihedral", 5), ("cyclic", 6)])
def test_answers_are_those_of_permutations(family, n, operation):
    group = finite_group(family, n)
    elements = [tuple(permutation) for permutation in group.permutations.tolist()]

    def after(a, b):
        return tuple(b[a[point]] for point in range(n))

    def inverse(a):
        return tuple(a.index(point) for point in range(n))

    expected = [
        elements.index(OPERATIONS[operation](a, b, after, inverse)) for a, b in itertools.product(elements, elements)
    ]
    task = build_task(Group(family=family, n=n, operation=operation))
    assert task.labels.tolist() == expected
    assert (task.p, task.d_vocab, task.d_vocab_out) == (group.order, group.order + 1, group.order)
    assert task.tokens.tolist() == [[a, b, task.p] for a in range(task.p) for b in range(task.p)]
    assert bool((task.train ^ task.test).all())


@pytest.mark.parametrize("operation", ["s5", "s5conj", "s5aba"])
def test_s5_is_that_of_openai_grok(operation):
    """Answers and split of its `data.py`: c = b[a] for arrays; products of sympy, first a then b, for the others."""
    elements = list(map(np.array, itertools.permutations(range(5))))
    number = {tuple(element): x for x, element in enumerate(np.array(elements).tolist())}
    answers = {
        "s5": lambda a, b: b[a],
        "s5conj": lambda a, b: a.argsort()[b[a]],  # first a, then b, then a^-1
        "s5aba": lambda a, b: a[b[a]],
    }
    equations = [
        f"{a} {b} {number[tuple(answers[operation](x, y).tolist())]}"
        for (a, x), (b, y) in itertools.product(enumerate(elements), repeat=2)
    ]
    np.random.RandomState(0).shuffle(equations)
    train = {tuple(map(int, text.split())) for text in equations[: round(len(equations) * 0.5)]}
    names = {"s5": "compose", "s5conj": "conjugate", "s5aba": "aba"}
    task = build_task(Group(operation=names[operation], train_fraction=0.5, split="numpy-shuffle"))
    rows = torch.cat([task.tokens[:, :2], task.labels[:, None]], dim=1)[task.train]
    assert set(map(tuple, rows.tolist())) == train


@pytest.mark.parametrize("split", ["torch-randperm", "python-shuffle", "numpy-shuffle"])
@pytest.mark.parametrize("options", [{}, {"encoding": "operands"}, {"outputs": "tokens"}])
def test_the_cyclic_group_is_addition(split, options):
    common = {"train_fraction": 0.37, "split": split, "seed": 5, **options}
    group, modular = build_task(Group(family="cyclic", n=11, **common)), build_task(Modular(p=11, **common))
    for name in ("tokens", "labels", "train", "test"):
        assert torch.equal(getattr(group, name), getattr(modular, name)), name
    for name in ("p", "n_ctx", "d_vocab", "d_vocab_out"):
        assert getattr(group, name) == getattr(modular, name), name


def test_counts_are_those_of_chughtai_et_al():
    task = build_task(Group())
    assert (task.p, int(task.train.sum()), int(task.test.sum())) == (120, 5760, 8640)


def test_pairs_without_an_answer_are_in_neither_part():
    labels = torch.zeros(49, dtype=torch.long)
    pairs = torch.arange(48, 6, -1)  # in some order of a script
    task = pair_task(Modular(p=7, train_fraction=0.5, seed=1), Residues(7), "add", labels, pairs)
    assert int(task.train.sum()) == int(task.test.sum()) == 21
    assert not (task.train | task.test)[:7].any()
    in_order = pair_task(Modular(p=7, train_fraction=0.5, seed=1), Residues(7), "add", labels, pairs.flip(0))
    assert not torch.equal(task.train, in_order.train)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": 7}, "`Group.n` must be in 3 .. 6 for symmetric groups; got 7."),
        ({"n": 2, "family": "alternating"}, "`Group.n` must be in 3 .. 6 for alternating groups; got 2."),
        ({"n": 2, "family": "dihedral"}, "`Group.n` must be >= 3 for dihedral groups; got 2."),
        ({"family": "free"}, "`Group.family` must be one of cyclic, dihedral, symmetric, alternating; got 'free'."),
        ({"operation": "add"}, "`Group.operation` must be one of compose, conjugate, aba; got 'add'."),
        ({"train_fraction": 0}, "`Group.train_fraction` must be a share in (0, 1); got 0.0."),
        ({"train_fraction": 1e-5}, "`Group.train_fraction` must leave at least one of 14400 pairs on each side; got"),
        ({"seed": -1}, "`Group.seed` must be in 0 .. 2^32-1; got -1."),
        ({"encoding": "operands", "outputs": "tokens"}, "`Group.outputs` tokens needs encoding direct"),
    ],
)
def test_a_group_config_that_breaks_a_rule_is_refused(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Group(**values)


def test_a_group_config_travels_and_names_its_run():
    config = RunConfig(task=Group(operation="aba", n=4))
    assert RunConfig.from_json(config.to_json()) == config
    assert config.run_id.startswith("S4aba-transformer-seed0-")
    named = {"S5": Group(), "S5conjugate": Group(operation="conjugate"), "D59": Group(family="dihedral", n=59)}
    assert [group.slug for group in named.values()] == list(named)
    assert config.replace({"task.family": "alternating"}).task == Group(family="alternating", operation="aba", n=4)


def test_configs_of_residues_are_written_as_before_there_were_groups():
    """Hence run folders keep their names, which are digests of this text."""
    fields = {"p": 113, "operation": "add", "train_fraction": 0.3, "split": "torch-randperm", "seed": 0}
    tokens = {"encoding": "direct", "outputs": "numbers"}
    assert RunConfig().to_dict()["task"] == {"kind": "Modular", **fields, **tokens}
