"""Attacks on patching, ablations, interchange interventions, the benchmark: wrong input is refused in a line."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import interp
from interp.analysis.ablations import keep_only
from interp.analysis.interchange import das, interchange_intervention
from interp.analysis.patching import (
    Site,
    Sources,
    activation_patching,
    mean_ablation,
    path_patching,
    resample_ablation,
    zero_ablation,
)
from interp.config import Modular, Parity, Recurrent, Transformer
from interp.errors import InterpError, InvalidArgumentError, NotAvailableError
from interp.models import Network, build_model
from interp.tasks import build_task
from tests.recorded import NAMES, made, task, update

pytestmark = pytest.mark.usefixtures("as_users_run_it")

Z, POST = "blocks.0.attn.hook_z", "blocks.0.mlp.hook_post"
SUMS = build_task(Modular(p=7))
PAIRS = build_task(Modular(p=7, encoding="operands"))
RUNS = Sources.of(SUMS)
RAGGED = [[0], [1, 2]]


def built(config, examples=SUMS, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return build_model(config, examples.d_vocab, examples.n_ctx, examples.d_vocab_out, generator=draws)


MODEL = built(Transformer(d_model=12, n_heads=3, d_head=4, d_mlp=16))
OTHER = built(Transformer(d_model=12, n_heads=3, d_head=4, d_mlp=16), seed=1)


class Forward(Network):
    """A user's network with `forward` alone, whose submodules work on whatever a user's submodules work on."""

    def __init__(self):
        super().__init__()
        self.given, self.table, self.turned, self.total, self.four = (nn.Identity() for _ in range(5))
        self.embed, self.layer, self.unread, self.out = (
            nn.Embedding(7, 6),
            nn.Linear(12, 8),
            nn.Linear(8, 1),
            nn.Linear(8, 7),
        )

    def forward(self, tokens):
        self.table(2 * self.embed.weight)
        e = self.turned(self.embed(self.given(tokens)).transpose(0, 1)).transpose(0, 1)
        h = self.layer(e.flatten(1)).relu()
        self.total(h.sum())
        self.unread(h)
        return self.out(self.four(h.reshape(-1, 2, 2, 2)).flatten(1))


class Gradientless(Forward):
    @torch.no_grad()
    def forward(self, tokens):
        return super().forward(tokens)


class Broken(Forward):
    def forward(self, tokens):
        raise ZeroDivisionError("two\nlines")


class Scalar(Forward):
    def forward(self, tokens):
        return super().forward(tokens).sum()


class Diverged(Forward):
    def forward(self, tokens):
        return super().forward(tokens) * math.nan


def zero(model=MODEL, tokens=SUMS.tokens, answers=SUMS.labels, site=Z, **rest):
    return zero_ablation(model, tokens, answers, site, **rest)


def patch(model=MODEL, runs=RUNS, site=Z, **rest):
    return activation_patching(model, runs, site, **rest)


def exchange(**changed):
    given = {"network": MODEL, "examples": SUMS, "site": Site("hook_embed", 0), "subspace": torch.eye(12)}
    return interchange_intervention(**(given | {"variable": "first", "untrained": OTHER} | changed))


def search(**changed):
    given = {"network": MODEL, "examples": SUMS, "site": POST, "variable": "answer", "dimension": 2, "updates": 2}
    return das(**(given | {"untrained": OTHER} | changed))


WRONG = {
    "no network": (lambda: patch(None), "`model` must be a network, such as traj.model"),
    "a module": (lambda: zero(nn.Linear(2, 2)), "`model` must be a network.* got Linear"),
    "a task for sources": (
        lambda: patch(runs=SUMS),
        r"`runs` must be `Sources`, such as Sources.of\(task\); got Examples",
    ),
    "no site": (lambda: patch(site=None), "`site` must be the name of an activation, or a Site .* got None"),
    "a site of a number": (lambda: zero(site=Site(3)), "`site` must be the name"),
    "a site of a list": (lambda: zero(site=Site([Z])), "`site` must be the name"),
    "ragged heads": (lambda: patch(site=Site(Z, heads=RAGGED)), "`heads` must be whole numbers in 0..2"),
    "no sender": (lambda: path_patching(MODEL, RUNS, None, POST), "`sender` must be the name"),
    "no receivers": (lambda: path_patching(MODEL, RUNS, Z, None), "`receivers` must be the name"),
    "a receiver of none": (lambda: path_patching(MODEL, RUNS, Z, [None]), "`receivers` must be the name"),
    "a seed of text": (lambda: patch(seed="a"), "`seed` must be a whole number >= 0; got 'a'"),
    "no seed": (lambda: zero(seed=None), "`seed` must be a whole number >= 0"),
    "tokens too large": (
        lambda: zero(tokens=SUMS.tokens + 50),
        "`tokens` must be inputs that TransformerNetwork takes; .*57",
    ),
    "tokens of floats": (
        lambda: zero(tokens=SUMS.tokens.double()),
        "`tokens` must be inputs .* float64 .* raised Index",
    ),
    "one input's tokens": (lambda: zero(tokens=SUMS.tokens[0]), r"`tokens` must be a tensor \[input, pos\] .* \[3\]"),
    "too many positions": (lambda: zero(tokens=SUMS.tokens.repeat(1, 2)), "`tokens` must be inputs that"),
    "no tokens": (lambda: zero(tokens=None), r"`tokens` must be a tensor \[input, pos\] with .* got NoneType"),
    "no inputs": (lambda: zero(tokens=SUMS.tokens[:0]), "`tokens` must be a tensor .* with at least one input"),
    "answers too large": (lambda: zero(answers=SUMS.labels + 50), "`answers` must be classes in 0..6.* got 50..56"),
    "answers of floats": (lambda: zero(answers=SUMS.labels.double()), "`answers` must be whole numbers"),
    "ragged answers": (lambda: zero(answers=RAGGED), "`answers` must be a tensor or an array of numbers; got list"),
    "sources of lists": (lambda: Sources([], [], [], []), "`base` must be a tensor .* got list"),
    "sources of floats": (
        lambda: Sources(RUNS.base, RUNS.source, RUNS.base_answers.double(), RUNS.source_answers),
        "`base_answers` must be classes, whole numbers",
    ),
    "classes too large": (
        lambda: patch(runs=Sources(RUNS.base, RUNS.source, RUNS.base_answers + 50, RUNS.source_answers)),
        "`base_answers` must be classes in 0..6",
    ),
    "foreign sources": (
        lambda: patch(runs=Sources(RUNS.base, RUNS.source + 50, RUNS.base_answers, RUNS.source_answers)),
        "`source` must be inputs that TransformerNetwork takes",
    ),
    "sources of nothing": (lambda: Sources.of(None), "`examples` must be the inputs of a task, such as traj.task"),
    "inputs that are not there": (
        lambda: Sources.of(SUMS, torch.tensor([0, 100])),
        "`base` must be numbers of inputs in 0..48",
    ),
    "inputs of floats": (lambda: Sources.of(SUMS, torch.tensor([0.5, 1])), "`base` must be numbers of inputs"),
    "inputs without answers": (
        lambda: Sources.of(build_task(Modular(p=5, operation="divide")), torch.tensor([1, 5])),
        "`base` must be inputs that have an answer; the input 5 has none",
    ),
    "exchange without a network": (lambda: exchange(network=None), "`network` must be a network"),
    "exchange without examples": (lambda: exchange(examples=None), "`examples` must be the inputs of a task"),
    "exchange without a control": (lambda: exchange(untrained=None), "`untrained` must be a network"),
    "exchange at True": (
        lambda: exchange(site=Site("hook_embed", True)),
        "`site` must be a whole activation at one position",
    ),
    "exchange of text": (lambda: exchange(subspace="a"), "`subspace` must be a tensor or an array of numbers"),
    "exchange of ragged rows": (lambda: exchange(subspace=RAGGED), "`subspace` must be a tensor or an array"),
    "a control of another shape": (
        lambda: search(untrained=built(Transformer(d_model=8, n_heads=1, d_head=8, d_mlp=8))),
        "`untrained` must be a network of the shape of `network`, with 16 dimensions of .* got 8",
    ),
    "another task": (
        lambda: search(network=built(Transformer(d_model=12, d_mlp=16), build_task(Modular(p=5)))),
        "`examples` must be inputs that TransformerNetwork takes",
    ),
    "a network that diverged": (
        lambda: search(network=Diverged(), examples=PAIRS, site="layer", untrained=Forward()),
        "`examples` must have finite logits; those of Diverged are NaN",
    ),
    "masked scores": (
        lambda: search(site=Site("blocks.0.attn.hook_attn_scores", 0)),
        "has no subspaces at this position: some of its numbers are not finite",
    ),
    "nothing kept of nothing": (lambda: keep_only(None, heads=[0]), "`model` must be a network"),
    "ragged heads kept": (lambda: keep_only(MODEL, heads=RAGGED), "`heads` must be whole numbers"),
    "no layer": (lambda: keep_only(MODEL, heads={}), "`heads` must name at least one layer; got {}"),
    "frequencies of text": (
        lambda: keep_only(MODEL, frequencies="1", examples=SUMS),
        "`frequencies` must be a tensor or",
    ),
    "ragged frequencies": (
        lambda: keep_only(MODEL, frequencies=RAGGED, examples=SUMS),
        "`frequencies` must be a tensor or",
    ),
    "frequencies of another task": (
        lambda: keep_only(MODEL, frequencies=[1], examples=build_task(Modular(p=11))),
        "`examples` must be the task of the network: it has operands up to token 10, and `embed.W_E` 8 rows",
    ),
    "means of another task": (
        lambda: keep_only(MODEL, heads=[0], other="mean", examples=build_task(Modular(p=11))),
        "`examples` must be inputs that TransformerNetwork takes",
    ),
    "means of no task": (
        lambda: keep_only(MODEL, heads=[0], other="mean", examples=3),
        "`examples` must be the inputs of a task",
    ),
    "a benchmark of nothing": (lambda: interp.benchmarks.decomposition(None), "A run must be a Trajectory or the path"),
    "a benchmark of a network": (
        lambda: interp.benchmarks.decomposition(MODEL),
        "A run must be a Trajectory .* network",
    ),
    "a benchmark of no folder": (lambda: interp.benchmarks.decomposition("/nowhere"), "/nowhere"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_refused_in_one_line(what):
    call, message = WRONG[what]
    with pytest.raises(InterpError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["given", "table", "turned", "total"])
def test_what_has_no_row_of_numbers_for_each_input_is_no_site(name):
    """Tokens, tables, all operands in one batch, a sum over inputs: parts that are no site."""
    network, runs = Forward(), Sources.of(PAIRS)
    for call in (
        lambda: activation_patching(network, runs, name),
        lambda: mean_ablation(network, PAIRS.tokens, PAIRS.labels, name),
        lambda: resample_ablation(network, PAIRS.tokens, PAIRS.labels, name),
        lambda: das(network, PAIRS, name, variable="answer", dimension=1, untrained=Forward(), updates=1),
    ):
        with pytest.raises(NotAvailableError, match=f"`{name}` of Forward cannot be changed input by input"):
            call()


def test_activations_of_any_shape_are_exchanged():
    """A map [batch, 2, 2, 2] is the last hidden layer in another shape, and all of the way to the answer."""
    torch.manual_seed(0)
    network, everything = Forward(), torch.eye(8)
    found = interchange_intervention(network, PAIRS, "four", everything, variable="answer", untrained=Forward())
    with torch.no_grad():
        answers = network(PAIRS.tokens).argmax(1)
    assert found.accuracy == found.random_subspace
    assert found.accuracy == pytest.approx(float((answers == PAIRS.labels).double().mean()), abs=0.1)
    patched = activation_patching(network, Sources.of(PAIRS), "four")
    assert patched.effect == pytest.approx(1)
    assert patched.random_source_effect != pytest.approx(1)


def test_nothing_is_learned_where_nothing_depends_on_the_site():
    for network, site in ((Forward(), "unread"), (Gradientless(), "layer")):
        with pytest.raises(
            NotAvailableError, match=f"No subspace of `{site}` can be learned: the logits do not depend"
        ):
            das(network, PAIRS, site, variable="answer", dimension=1, untrained=Forward(), updates=1)


def test_an_error_of_a_users_pass_is_named_in_one_line_and_kept():
    runs = Sources.of(PAIRS)
    with pytest.raises(
        InvalidArgumentError, match=r"inputs that Broken takes; .* raised ZeroDivisionError: two lines"
    ) as raised:
        activation_patching(Broken(), runs, "layer")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    with pytest.raises(
        InvalidArgumentError, match=r"`Scalar.forward` must give logits .* of 49 inputs; got shape \[\]"
    ):
        activation_patching(Scalar(), runs, "layer")


def test_declared_readers_must_exist():
    wrong = type("Wrong", (type(MODEL),), {"readers": {Z: ("blocks.0.attn.W_X", "")}})
    network = built(Transformer(d_model=12, n_heads=3, d_head=4, d_mlp=16))
    network.__class__ = wrong
    with pytest.raises(
        InterpError, match=r"`Wrong.readers` must name parameters; there is no `blocks.0.attn.W_X`. Did you"
    ):
        keep_only(network, heads=[0])
    wrong.readers = {"hook_nowhere.hook_z": ("blocks.0.attn.W_O", "blocks.0.attn.b_O")}
    wrong.activation_axes = {"hook_nowhere.hook_z": ("pos", "head", "d_head")}
    with pytest.raises(InterpError, match=r"`Wrong.readers` must name activations; there is no `hook_nowhere.hook_z`"):
        keep_only(network, heads=[0], other="mean", examples=SUMS)


# --- networks and runs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "mine"
    torch.manual_seed(0)
    model, opt = made()
    with interp.record(folder, model, optimizer=opt, task=task(), names=NAMES, neurons="act", save="every(10)") as rec:
        for _ in range(20):
            rec.step(train_loss=update(model, opt))
    return rec.trajectory


NETWORKS = {
    "pre": Transformer(d_model=12, n_heads=3, d_head=4, d_mlp=16, normalization="pre"),
    "post": Transformer(d_model=12, n_heads=3, d_head=4, d_mlp=16, normalization="post"),
    "lstm": Recurrent(d_model=6, d_hidden=8),
    "recorded": None,
}
END = {
    "pre": "blocks.0.hook_resid_post",
    "post": "blocks.0.hook_resid_post",
    "lstm": "blocks.0.rnn.hook_h",
    "recorded": "act",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_that_there_is_at_the_end_carries_the_answer(name, recorded_run):
    """And its controls are apart: third inputs have another answer, no part is left to be ablated instead."""
    examples = recorded_run.task if name == "recorded" else SUMS
    network = recorded_run.model() if name == "recorded" else built(NETWORKS[name])
    found = activation_patching(network, Sources.of(examples), END[name])
    assert found.effect == pytest.approx(1, abs=1e-4)
    assert abs(found.random_source_effect - 1) > 0.05
    whole = torch.eye(network.run_with_cache(examples.tokens)[1][END[name]].shape[-1])
    swapped = interchange_intervention(network, examples, END[name], whole, variable="answer", untrained=network)
    assert swapped.accuracy == swapped.random_subspace == swapped.untrained
    for ablation in (zero_ablation, mean_ablation, resample_ablation):
        part = POST if name in ("pre", "post") else END[name]
        found = ablation(network, examples.tokens, examples.labels, Site(part, neurons=[0, 1]))
        assert math.isfinite(found.random_loss)
        assert math.isnan(ablation(network, examples.tokens, examples.labels, END[name]).random_loss)


def test_parity_has_patches_and_no_operands():
    examples = build_task(Parity(n=6, samples=40))
    few = torch.arange(40)
    network = built(Transformer(d_model=12, n_heads=3, d_head=4, d_mlp=16), examples)
    found = activation_patching(network, Sources.of(examples, few, few.flip(0)), END["pre"])
    assert found.effect == pytest.approx(1, abs=1e-4)
    with pytest.raises(NotAvailableError, match="need inputs that are pairs of operands"):
        das(network, examples, POST, variable="answer", dimension=1, untrained=network)
    with pytest.raises(NotAvailableError, match="`frequencies` are defined where the operands are residues; got words"):
        keep_only(network, frequencies=[1], examples=examples)


def test_a_run_without_its_module_says_so(recorded_run):
    bare = interp.load(recorded_run.folder)
    for call in (
        lambda: activation_patching(bare.model(), Sources.of(bare.task), "act"),
        lambda: das(bare.model(), bare.task, "act", variable="answer", dimension=1, untrained=bare.model()),
    ):
        with pytest.raises(NotAvailableError, match="stores the parameters of the network `MLP` and not its code"):
            call()
    with pytest.raises(NotAvailableError, match="needs a network that can be run"):
        interp.benchmarks.decomposition(recorded_run.folder)


def test_the_benchmark_reads_a_folder_and_writes_nothing(toy_run):
    before = {path: path.stat().st_mtime_ns for path in toy_run.folder.rglob("*")}
    known = interp.benchmarks.decomposition(toy_run.folder, "embedding")
    assert known.activations.shape[0] == toy_run.task.p
    assert {path: path.stat().st_mtime_ns for path in toy_run.folder.rglob("*")} == before
    for used in ("a", RAGGED, [None] * 2):
        with pytest.raises(InvalidArgumentError, match="`used` must be a tensor or an array of numbers"):
            known.score(np.eye(2, known.activations.shape[1]), used)
    with pytest.raises(InvalidArgumentError, match="`seed` must be a whole number"):
        known.random_dictionary(2, seed="a")
