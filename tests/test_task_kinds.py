"""Inputs `a op b =`, several operands, splits by a rule, random labels, and training sets that are multisets."""

import itertools
import math

import pytest
import torch

import interp
from interp.config import Digits, FeedForward, Group, Modular, Operations, RunConfig, Transformer
from interp.errors import ConfigError, InvalidArgumentError, NotAvailableError
from interp.tasks import Classes, Examples, Sequences, build_task
from interp.training.state import TrainState

P = 5
CPU = torch.device("cpu")


def pairs_of(mask: torch.Tensor, p: int = P) -> set[tuple[int, int]]:
    return {divmod(i, p) for i in mask.nonzero().flatten().tolist()}


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_an_operation_has_a_sign_of_its_own():
    task = build_task(Modular(p=P, encoding="operation", operation="multiply"))
    assert task.tokens.tolist() == [[a, P + 1, b, P] for a in range(P) for b in range(P)]
    assert (task.d_vocab, task.d_vocab_out, task.n_ctx) == (P + 2, P, 4)
    assert build_task(Modular(p=P, encoding="operation", outputs="tokens")).d_vocab_out == P + 2
    assert task.labels.tolist() == build_task(Modular(p=P, operation="multiply")).labels.tolist()


@pytest.mark.parametrize(
    ("encoding", "row"),
    [
        ("operands", (0, 1, 2)),
        ("direct", (0, 1, 2, P)),
        ("operation", (0, P + 1, 1, P + 1, 2, P)),
        ("sentence", (P + 1, 0, P + 2, 1, P + 2, 2, P + 3, P)),
    ],
)
@pytest.mark.parametrize("operation", ["add", "subtract", "multiply"])
@pytest.mark.parametrize("arity", [3, 4])
def test_several_operands_are_all_tuples_with_the_operation_from_the_left(arity, operation, encoding, row):
    task = build_task(Modular(p=P, arity=arity, operation=operation, encoding=encoding))
    if arity == 3:
        assert task.tokens[7].tolist() == list(row)
    tuples = list(itertools.product(range(P), repeat=arity))
    do = {
        "add": sum,
        "subtract": lambda x: x[0] - sum(x[1:]),
        "multiply": math.prod,
    }[operation]
    assert task.labels.tolist() == [do(x) % P for x in tuples]
    assert (task.arity, task.p, len(task.tokens)) == (arity, P, P**arity)
    task.require_consistent()  # what is declared follows from the tokens: all tuples, and the operation


def test_operands_and_signs_have_ids_of_their_own():
    plain, signed, three = (
        RunConfig(task=task) for task in (Modular(p=P), Modular(p=P, encoding="operation"), Modular(p=P, arity=3))
    )
    assert len({plain.run_id, signed.run_id, three.run_id}) == 3
    assert three.task.slug == "add5-3operands"
    added = ("arity", "hold_out", "random_labels", "draws")
    assert not any(name in plain.to_json() for name in added)
    assert RunConfig.from_json(three.to_json()) == three


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["torch-randperm", "python-shuffle", "numpy-shuffle"])
def test_rows_are_held_out_whole(split):
    task = build_task(Modular(p=P, train_fraction=0.6, hold_out="rows", split=split))
    rows = [{a for a, _ in pairs_of(mask)} for mask in (task.train, task.test)]
    assert [len(found) for found in rows] == [3, 2]
    assert not rows[0] & rows[1]
    assert int(task.train.sum()) == 3 * P
    three = build_task(Modular(p=P, arity=3, train_fraction=0.6, hold_out="rows", split=split))
    assert bool((three.train.unflatten(0, (P, P * P)).float().mean(1) % 1 == 0).all())


def test_rows_of_a_division_leave_out_what_has_no_answer():
    task = build_task(Modular(p=P, train_fraction=0.6, hold_out="rows", operation="divide"))
    assert not any(b == 0 for _, b in pairs_of(task.train | task.test))
    assert int(task.train.sum()) == 3 * (P - 1)


def test_half_of_the_pairs_is_trained_on():
    task = build_task(Modular(p=P, train_fraction=1, hold_out="a>b"))
    assert pairs_of(task.train) == {(a, b) for a in range(P) for b in range(P) if a <= b}
    assert pairs_of(task.test) == {(a, b) for a in range(P) for b in range(P) if a > b}


@pytest.mark.parametrize("split", ["torch-randperm", "python-shuffle", "numpy-shuffle"])
def test_a_share_of_half_of_the_pairs_is_trained_on(split):
    task = build_task(Modular(p=P, train_fraction=0.6, hold_out="a>b", split=split))
    assert pairs_of(task.train) < {(a, b) for a in range(P) for b in range(P) if a <= b}
    assert int(task.train.sum()) == 9
    assert torch.equal(task.test, ~task.train)
    other = build_task(Modular(p=P, train_fraction=0.6, hold_out="a>b", split=split, seed=1))
    assert not torch.equal(task.train, other.train)


def test_groups_are_split_by_the_same_rules():
    task = build_task(Group(family="cyclic", n=P, train_fraction=1, hold_out="a>b"))
    assert torch.equal(task.train, build_task(Modular(p=P, train_fraction=1, hold_out="a>b")).train)


# --- random labels ----------------------------------------------------------------------------------------------------


def test_a_share_of_the_training_labels_is_random_and_no_other():
    config = Modular(p=23, train_fraction=0.5, random_labels=0.4)
    clean, noisy = build_task(config.replace({"random_labels": 0.0})), build_task(config)
    assert torch.equal(clean.train, noisy.train)
    changed = clean.labels != noisy.labels
    assert not (changed & ~noisy.train).any()
    drawn = round(0.4 * int(noisy.train.sum()))
    assert 0.9 * drawn <= int(changed.sum()) <= drawn  # one in 23 is right by chance
    assert noisy.labels[changed].unique().numel() > 15  # all alike likely
    assert torch.equal(noisy.labels, build_task(config).labels)
    assert not torch.equal(noisy.labels, build_task(config.replace({"seed": 1})).labels)


# --- training sets with repetition ------------------------------------------------------------------------------------


def test_a_training_set_is_drawn_with_replacement():
    config = Modular(p=P, train_fraction=0.6, draws=12)
    once, drawn = build_task(config.replace({"draws": None})), build_task(config)
    assert int(drawn.repeats.sum()) == len(drawn.trained) == 12
    assert drawn.repeats.max() > 1
    assert not (drawn.train & ~once.train).any()
    assert torch.equal(drawn.test, ~drawn.train)
    assert drawn.trained.bincount(minlength=P * P).tolist() == drawn.repeats.tolist()
    assert torch.equal(once.trained, once.train.nonzero().squeeze(1))
    assert once.digest() != drawn.digest()


def test_repeated_inputs_count_as_often_in_the_loss():
    config = RunConfig(
        task=Modular(p=P, train_fraction=0.6, draws=12), model=Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=8)
    )
    state = TrainState(config, CPU)
    task = state.task
    logits = state.model(task.tokens)[:, -1].detach().double()
    losses = torch.nn.functional.cross_entropy(logits, task.labels, reduction="none")
    expected = (losses * task.repeats).sum() / task.repeats.sum()
    found = float(state.evaluate("train")[0])
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert found != pytest.approx(float(losses[task.train].mean()), rel=1e-5)  # which is that of the set


def test_ones_own_examples_may_repeat():
    tokens, labels = torch.tensor([[0], [1], [2]]), torch.tensor([0, 1, 0])
    train = torch.tensor([True, True, False])
    own = {"inputs": Sequences(), "answers": Classes(2)}
    found = Examples.of(tokens, labels, train, repeats=torch.tensor([3, 1, 0]), **own)
    assert found.trained.tolist() == [0, 0, 0, 1]
    for wrong in (torch.tensor([3, 0, 1]), torch.tensor([3, 1, 0], dtype=torch.int32)):
        with pytest.raises(InvalidArgumentError, match="`repeats` must be int64, one for each of 3 inputs"):
            Examples.of(tokens, labels, train, repeats=wrong, **own)


# --- several operations -----------------------------------------------------------------------------------------------


def test_a_token_names_the_operation():
    names = ("add", "divide", "x2+y")
    task = build_task(Operations(p=P, operations=names, train_fraction=0.5))
    signs = range(P + 1, P + 4)
    assert task.tokens.tolist() == [[a, sign, b, P] for sign in signs for a in range(P) for b in range(P)]
    assert (task.d_vocab, task.d_vocab_out, task.p, task.arity) == (P + 4, P, P, 0)
    alone = [build_task(Modular(p=P, operation=name)) for name in names]
    assert task.labels.tolist() == [c for one in alone for c in one.labels.tolist()]
    answered = torch.cat([one.train | one.test for one in alone])
    assert torch.equal(task.train | task.test, answered)
    assert not (task.train & task.test).any()
    assert int(task.train.sum()) == int(0.5 * int(answered.sum()))
    task.require_consistent()
    assert build_task(Operations(p=P, operations=names, outputs="tokens")).d_vocab_out == P + 4


def test_two_operations_begin_like_one():
    """Of one operation the tokens are those of `Modular`, so that a network of one reads the others."""
    alone = build_task(Modular(p=P, encoding="operation"))
    both = build_task(Operations(p=P, operations=("add", "multiply")))
    assert torch.equal(both.tokens[: P * P], alone.tokens)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"operations": ("add",)}, r"`Operations.operations` must be two or more, each once; got \('add',\)"),
        ({"operations": ("x2 + y", "x^2+y")}, "must be two or more, each once"),
        ({"operations": ("add", "modulo")}, "`Modular.operation` must be one of add, .*modulo"),
        ({"operations": ("add", "divide"), "p": 6}, "divide needs a prime p"),
        ({"p": 5000}, r"`Operations.p` must be smaller: at most 10\^7 inputs"),
    ],
)
def test_operations_that_are_none_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Operations(**fields)


def test_operations_are_a_part_of_the_run_id():
    config = RunConfig(task=Operations(operations=["add", "x^2 + y"]))
    assert config.task.slug == "add+x2_y97"
    assert RunConfig.from_json(config.to_json()) == config


def test_accuracy_is_told_apart_by_operation(tmp_path):
    task = Operations(p=P, operations=("add", "multiply", "subtract"), train_fraction=0.6)
    config = RunConfig(task=task, model=Transformer(d_model=16, n_heads=2, d_head=8, d_mlp=16), steps=20)
    traj = interp.train(config, root=tmp_path, device="cpu")
    data = interp.measure(traj, ["test_accuracy", "test_accuracy_by_operation"], steps=[0, 20])
    assert data["operation"].values.tolist() == ["add", "multiply", "subtract"]
    examples = build_task(task)
    right = traj.model(20)(examples.tokens)[:, -1].argmax(-1) == examples.labels
    for place, name in enumerate(task.operations):
        held_out = examples.test & (examples.tokens[:, 1] == P + 1 + place)
        found = data["test_accuracy_by_operation"].sel(step=20, operation=name)
        assert float(found) == pytest.approx(float(right[held_out].double().mean()))
    with pytest.raises(NotAvailableError, match="is defined where each input names one of several operations"):
        interp.measure(
            interp.train(config.replace({"task": Modular(p=P)}), root=tmp_path, device="cpu"),
            "test_accuracy_by_operation",
        )


# --- digits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize(("base", "n"), [(2, 3), (3, 2), (10, 1)])
def test_digits_of_sums_are_those_of_schoolbook_addition_with_carries(base, n, order):
    task = build_task(Digits(base=base, n_digits=n, answer_order=order, train_fraction=0.5))
    read, due = task.objective.inputs(task.tokens, task.labels)
    assert len(task.tokens) == base ** (2 * n)
    assert (task.d_vocab, task.d_vocab_out, task.n_ctx) == (base + 2, base, 3 * n + 2)
    for row, digits in zip(read.tolist(), due.tolist()):
        first, plus, second, equals, seen = row[:n], row[n], row[n + 1 : 2 * n + 1], row[2 * n + 1], row[2 * n + 2 :]
        assert (plus, equals) == (base, base + 1)
        carry, answer = 0, []
        for a, b in zip(reversed(first), reversed(second)):
            carry, digit = divmod(a + b + carry, base)
            answer.append(digit)
        answer.append(carry)
        assert digits == (answer if order == "least" else answer[::-1])
        assert seen == digits[:-1]
    task.require_consistent()


def test_the_loss_of_digits_is_their_mean_and_all_must_be_right():
    task = Digits(base=3, train_fraction=0.5)
    state = TrainState(RunConfig(task=task, model=Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=8)), CPU)
    read, due = state.objective.inputs(state.task.tokens, state.task.labels)
    logits = state.model(read)[:, -3:].detach()
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), due.flatten(), reduction="none").view(-1, 3)
    right = (logits.argmax(-1) == due).all(1)
    for name, mask in (("train", state.task.train), ("test", state.task.test)):
        loss, accuracy = state.evaluate(name).tolist()
        assert loss == pytest.approx(float(each[mask].mean()), rel=1e-5)
        assert accuracy == pytest.approx(float(right[mask].double().mean()))
    weights = torch.rand(len(due), dtype=torch.float64)
    weights /= weights.sum()
    weighted, _ = state.objective.loss(logits, due, weights=weights)
    assert float(weighted) == pytest.approx(float((each.mean(1) * weights).sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Digits(base=1), "`Digits.base` must be >= 2; got 1"),
        (lambda: Digits(n_digits=0), "`Digits.n_digits` must be >= 1; got 0"),
        (
            lambda: Digits(n_digits=4),
            r"`Digits.n_digits` must be smaller: at most 10\^7 pairs, 10\^\(2 n_digits\); got 4",
        ),
        (lambda: RunConfig(task=Digits(), model=FeedForward()), "`task.encoding` must be operands; got tokens"),
        (
            lambda: RunConfig(task=Digits(), model=Transformer(attention="bidirectional")),
            "A Digits task has the model read the answer behind '=': `model.attention` must be causal",
        ),
        (
            lambda: RunConfig(task=Digits(), model=Transformer()).replace({"optimizer.loss": "exponential"}),
            "cross-entropy, stablemax or mse elsewhere; got exponential",
        ),
    ],
)
def test_digits_that_cannot_be_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arity": 1}, "`Modular.arity` must be >= 2; got 1"),
        (
            {"arity": 3, "operation": "divide"},
            "`Modular.operation` must be add, subtract, multiply for 3 operands; the",
        ),
        ({"arity": 4, "p": 97}, r"`Modular.p` must be small: p\^4 inputs may be 10\^7 at most; got 97"),
        ({"hold_out": "columns"}, "`Modular.hold_out` must be one of pairs, rows, a>b; got 'columns'"),
        (
            {"hold_out": "rows", "train_fraction": 0.001},
            "at least one of 113 first operands on each side .*; got 0.001",
        ),
        ({"hold_out": "rows", "train_fraction": 1}, r"`Modular.train_fraction` must be a share in \(0, 1\); got 1.0"),
        ({"hold_out": "a>b", "train_fraction": 1.5}, r"must be a share in \(0, 1\] of the pairs with a <= b; got 1.5"),
        ({"random_labels": 1.5}, r"`Modular.random_labels` must be a share in \[0, 1\]; got 1.5"),
        ({"draws": 0}, "`Modular.draws` must be >= 1, or None for each training input once; got 0"),
        ({"split": "stored", "draws": 3}, "`hold_out` must be pairs and `draws` None; got hold_out=pairs, draws=3"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Modular(**fields)


def test_an_mlp_of_two_operands_refuses_three():
    config = RunConfig(task=Modular(p=P, arity=3, encoding="operands"), model=FeedForward())
    with pytest.raises(
        ConfigError, match=r"reads two operands at two positions; the task has 3\. Choose a model of seq"
    ):
        TrainState(config, CPU)


def test_a_stream_that_shuffled_something_else_is_not_continued():
    task = Modular(p=P, hold_out="rows", encoding="operands", train_fraction=0.6)
    with pytest.raises(ConfigError, match=r"`task\.hold_out` must be pairs"):
        RunConfig(task=task, model=FeedForward(init_stream="split"))
