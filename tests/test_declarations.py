"""Tasks and models keep what they declare, and nobody asks of which kind one is."""

import ast
import itertools
from pathlib import Path

import pytest
import torch

import interp
from interp.config import Decoder, FeedForward, Gaussian, Group, Logistic, Modular, Parity, Recurrent, Sums, Symbolic
from interp.config import Transformer as Tf
from interp.models import build_model
from interp.tasks import Elements, Numbers, Residues, Sides, Tuples, build_task

PACKAGE = Path(interp.__file__).parent

TASKS = [
    Modular(p=7),
    Modular(p=7, operation="subtract", encoding="sentence"),
    Modular(p=7, operation="divide", outputs="tokens"),
    Modular(p=7, operation="x2+y2", encoding="operands"),
    Group(n=3),
    Group(family="cyclic", n=5, operation="conjugate", encoding="operands"),
    Symbolic(p=7, operation="multiply"),
    Symbolic(p=7, operation="compose", closing=True),
    Sums(p=6),
    Sums(p=6, codes=4, encoding="direct"),
    Parity(n=5, k=2, samples=20),
    Gaussian(n=9, d=4),
]
MODELS = [
    Tf(d_model=8, n_heads=2, d_head=4, d_mlp=12, attention_biases="trainable", mlp_biases="frozen", init="torch"),
    Tf(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=12, unembed_biases="trainable"),
    Decoder(d_model=8, n_heads=2, d_mlp=12),
    FeedForward(d_model=8, d_hidden=(12, 10)),
    FeedForward(d_model=8, embedding="separate", combine="product", d_hidden=()),
    FeedForward(embedding="one-hot", d_hidden=(12,)),
    FeedForward(embedding="scalars", d_hidden=(12,)),
    Recurrent(d_model=8, d_hidden=10, n_layers=2),
    Recurrent(cell="rnn", embedding="scalars", d_hidden=10),
    Logistic(),
]


@pytest.mark.parametrize("config", TASKS, ids=lambda config: config.slug)
def test_a_task_keeps_what_it_declares(config):
    examples = build_task(config)
    if examples.arity:
        p, arity = examples.p, examples.arity
        assert len(examples.tokens) == p**arity
        places = [(examples.tokens[p ** (arity - 1 - i)] != examples.tokens[0]).nonzero()[0] for i in range(arity)]
        tuples = torch.tensor(list(itertools.product(range(p), repeat=arity)))
        assert torch.equal(examples.tokens[:, torch.cat(places)], examples.operands[tuples])
    seen = examples.train | examples.test
    assert torch.isin(examples.labels[seen], examples.classes).all()
    assert len(examples.classes) == examples.answers.size
    assert examples.d_vocab_out >= examples.answers.n_outputs
    assert examples.answers.is_classes or examples.d_vocab_out == examples.answers.n_outputs
    inputs, labels = examples.objective.inputs(examples.tokens, examples.labels)
    assert inputs.shape[1] == examples.n_ctx
    assert labels.ndim == 1 or labels.shape[1] == examples.objective.positions
    assert examples.objective.has_population == (examples.answers == Sides())


@pytest.mark.parametrize("config", [task for task in TASKS if build_task(task).operation], ids=lambda task: task.slug)
def test_the_operation_is_the_one_declared(config):
    examples = build_task(config)
    a, b = torch.cartesian_prod(torch.arange(examples.p), torch.arange(examples.p)).T
    place = {int(label): number for number, label in enumerate(examples.classes)}
    c = torch.tensor([place[int(label)] for label in examples.labels])
    match examples.inputs, examples.operation:
        case Tuples(Residues(p)), "add":
            kept = c == (a + b) % p
        case Tuples(Residues(p)), "subtract":
            kept = c == (a - b) % p
        case Tuples(Residues(p)), "multiply":
            kept = c == a * b % p
        case Tuples(Residues(p)), "divide":
            kept = a == b * c % p
        case Tuples(Elements(group=group)), "product":
            kept = c == torch.from_numpy(group.table)[a, b]
        case Tuples(Numbers()), "add":
            kept = c == a + b
    assert kept[examples.train | examples.test].all()


def test_answers_are_operands_where_they_are_equal():
    assert build_task(Modular(p=7)).answers == build_task(Modular(p=7)).inputs.operands == Residues(7)
    assert build_task(Group(n=3)).answers == build_task(Group(n=3)).inputs.operands
    assert build_task(Group(n=3)).answers != build_task(Group(family="dihedral", n=3)).answers
    assert build_task(Sums(p=6)).answers == Numbers(11) != build_task(Sums(p=6)).inputs.operands


@pytest.mark.parametrize("config", MODELS, ids=lambda config: config.slug)
def test_a_network_keeps_what_it_declares(config):
    sizes = (5, 3 if isinstance(config, Tf | Decoder | Recurrent) else 2, 1 if config.is_plane else 7)
    network = build_model(config, *sizes, generator=torch.Generator().manual_seed(0))
    weights = dict(network.named_parameters())
    points = "points" in config.encodings
    for name, W in weights.items():
        assert points or len(network.axes_of(name)) == W.ndim, name
    for name in network.embeddings:
        assert len(weights[name]) % sizes[0] == 0
    assert not network.looks_up or {len(weights[name]) for name in network.embeddings} == {sizes[0]}
    if network.read_out:
        assert weights[network.read_out].shape[1] == sizes[2]
    tokens = torch.randn(4, 2) if points else torch.tensor([[1, 2, 4], [0, 3, 4]])[:, : sizes[1]]
    cache = network.run_with_cache(tokens)[1]
    assert not network.pattern or cache[network.pattern].shape[-2:] == (sizes[1], sizes[1])
    assert network.has_neurons
    answer = network.answer(network.prepare(tokens))
    rebuilt = answer.neurons @ network.neuron_logit_map() + answer.residual_logits
    torch.testing.assert_close(rebuilt, answer.logits, rtol=1e-4, atol=1e-5)
    if network.embeddings:
        steps = {name: torch.stack([W, 2 * W]) for name, W in weights.items()}
        assert network.operand_embeddings(steps).shape[:2] == (2, len(weights[network.embeddings[0]]))


# --- nobody asks for the kind -----------------------------------------------------------------------------------------

KINDS = {"sigma", "codes", "closing"}
"""Fields that told kinds of task apart by being None."""
NOT_DECLARED = {("execution/executors.py", "pool")}
"""Attributes that a thread may lack; a function may lack `__name__`."""


def probes(source: str) -> list[str]:
    """Questions for a kind: getattr with a literal and a default, hasattr, and comparisons of `KINDS` with None."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.args[1].value if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) else None
            if node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3 and name):
                found.append(str(name))
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr in KINDS:
            own = isinstance(node.left.value, ast.Name) and node.left.value.id == "self"
            if not own and any(isinstance(other, ast.Constant) and other.value is None for other in node.comparators):
                found.append(node.left.attr)
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_probes(path):
    short = str(path.relative_to(PACKAGE))
    assert [name for name in probes(path.read_text()) if (short, name) not in NOT_DECLARED and name != "__name__"] == []


def test_the_scan_finds_probes():
    assert probes('getattr(task, "codes", None)') == ["codes"]
    assert probes('hasattr(model, "embed")') == ["embed"]
    assert probes("if task.sigma is not None: pass") == ["sigma"]
    assert probes("self.codes is None; getattr(config, name); getattr(config, name, None)") == []
