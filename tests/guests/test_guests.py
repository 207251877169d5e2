"""Tasks and models of a user's own, from modules outside the package, go wherever built-in ones go."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import interp
from interp.cli import main
from interp.config import FeedForward, Logistic, Muon, Recurrent, RunConfig, TaskConfig, Transformer
from interp.config.base import Record
from interp.errors import ConfigError, InvalidArgumentError
from interp.models import Model, Network
from interp.rng import generator
from interp.tasks import (
    Classes,
    Examples,
    Numbers,
    Objective,
    OneClass,
    Points,
    Residues,
    Sides,
    Task,
    Tuples,
    build_task,
    split,
)
from interp.tasks.objective import mean_of
from interp.training.api import RunInterrupted
from tests.guests.attention_only import AttentionOnly
from tests.guests.greater import Greater
from tests.guests.three_sum import ThreeSum
from tests.observers import Interrupts

ROOT = Path(__file__).parent.parent.parent
SMALL = Transformer(d_model=16, n_heads=2, d_head=8, d_mlp=24)
MODELS = {
    "attention only": AttentionOnly(),
    "transformer": SMALL,
    "two layers": SMALL.replace({"n_layers": 2, "attention": "bidirectional"}),
    "lstm": Recurrent(d_model=8, d_hidden=16),
    "mlp": FeedForward(d_model=16, d_hidden=(32,)),
}
TASKS = {
    "greater": Greater(),
    "greater, without =": Greater(encoding="operands"),
    "three sum": ThreeSum(p=5),
    "three sum, without =": ThreeSum(p=5, equals=False),
}
PAIRS = [(task, model) for task in TASKS for model in MODELS if model != "mlp" or task == "greater, without ="]


def config_of(task: TaskConfig, model: object) -> RunConfig:
    changes = {"steps": 24, "save.weights": "every(4)", "save.state": "every(8)", "log.test": "every(2)"}
    return interp.recipes.get("kitouni-circle").replace({"task": task, "model": model, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = config_of(Greater(), AttentionOnly())
    return interp.train(config, root=tmp_path_factory.mktemp("guest"), device="cpu")


@pytest.mark.parametrize(("task", "model"), PAIRS)
def test_it_trains_and_both_passes_agree(task, model, tmp_path):
    traj = interp.train(config_of(TASKS[task], MODELS[model]), root=tmp_path, device="cpu")
    losses = traj.metrics.train_loss.values
    assert losses[-1] < losses[0]
    network, tokens = traj.model(), traj.task.tokens
    outputs = network(tokens)[:, -1]
    torch.testing.assert_close(network.answer_logits(network.prepare(tokens)), outputs, rtol=1e-4, atol=1e-5)
    right = (outputs.argmax(1) == traj.task.labels)[traj.task.test].double().mean()
    np.testing.assert_allclose(traj.metrics.test_accuracy.values[-1], right)


def test_an_interrupted_run_goes_on_bit_for_bit(run, tmp_path):
    with pytest.raises(RunInterrupted):
        interp.train(run.config, root=tmp_path, device="cpu", observers=[Interrupts(13)])
    again = interp.resume(tmp_path / run.config.run_id)
    assert again.fingerprints() == run.fingerprints()
    assert again.metrics.equals(run.metrics)


def test_a_stretch_is_replayed(run):
    zoom = interp.replay(run, start=9, stop=15)
    assert zoom.steps.tolist() == list(range(9, 16))
    zoom.require_equal(12, {name: run.param(name).sel(step=12) for name in run.names})


def test_initial_weights_are_the_seeds_and_leave_the_global_generator_alone(run):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    traj = run.model(0)
    assert torch.equal(torch.rand(3), expected)
    fresh = interp.training.state.initial_model(run.config, run.task)
    assert all(torch.equal(W, fresh.get_parameter(name)) for name, W in traj.named_parameters())
    other = interp.training.state.initial_model(run.config.replace({"seed": 1}), run.task)
    assert not torch.equal(other.embed.weight, fresh.embed.weight)


def test_several_train_together(run, tmp_path):
    configs = [run.config, run.config.replace({"seed": 1, "task.seed": 1}), run.config.replace({"optimizer.lr": 2e-3})]
    together = interp.train_many(configs, root=tmp_path, device="cpu")
    for name in run.names:
        np.testing.assert_allclose(together[0].param(name).sel(step=24), run.param(name).sel(step=24), atol=1e-5)
    assert len({traj.fingerprints()[-1] for traj in together}) == 3


def test_muon_leaves_tables_and_read_out_to_adamw(run, tmp_path):
    network = run.model()
    turned = [name for name, W in network.named_parameters() if network.muon_turns(name, W.ndim)]
    assert turned == ["position.weight", "layers.0.weight", "layers.1.weight"]
    configs = [run.config.replace({"optimizer": Muon(), "seed": seed}) for seed in (0, 1)]
    alone = interp.train(configs[0], root=tmp_path / "alone", device="cpu")
    together = interp.train_many(configs, root=tmp_path / "together", device="cpu")[0]
    for name in alone.names:
        np.testing.assert_allclose(together.param(name).sel(step=24), alone.param(name).sel(step=24), atol=1e-4)


def test_axes_are_named_as_the_network_declares(run):
    assert run.param("embed.weight").dims == ("step", "token", "d_model")
    assert run.param("position.weight").dims == ("step", "axis_0", "axis_1")


def test_activations_have_the_names_of_submodules(run):
    logits, cache = run.model().run_with_cache(run.task.tokens)
    assert logits.shape == (121, 3, 2)
    assert cache["layers.1"].shape == (121, 3, 128)


def test_a_sweep_in_processes_of_their_own(run, tmp_path):
    base = run.config.replace({"steps": 4, "save.weights": "every(4)", "save.state": "every(4)"})
    found = interp.sweep(base, {"seed": [0, 1], "model.d_model": [16, 32]}, root=tmp_path, workers=2)
    assert not found.failures
    assert [traj.complete for traj in found.trajectories] == [True] * 4


# --- in a fresh process -----------------------------------------------------------------------------------------------


def fresh(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_fresh_process_refuses_it_in_one_line_until_the_class_is_imported(run):
    load = f"import interp; run = interp.load({str(run.folder)!r}); print(run.model()(run.task.tokens).shape)"
    refused = fresh("-c", load)
    assert refused.stderr.strip().splitlines()[-1] == (
        f"interp.errors.StoreError: {run.folder / 'run.json'}: `config.task.kind` is tests.guests.greater:Greater, "
        "of a module that is not imported, and a stored config never imports one. Write `import tests.guests.greater` "
        "first, or `interp --import tests.guests.greater ...` on the command line."
    )
    imported = fresh("-c", f"import tests.guests.greater, tests.guests.attention_only; {load}")
    assert imported.stdout == "torch.Size([121, 3, 2])\n"


def test_the_command_line_imports_what_it_is_told_to(run):
    both = ("--import", "tests.guests.greater", "--import=tests.guests.attention_only")
    for words in (("list", str(run.folder.parent), *both), (*both, "list", str(run.folder.parent))):
        assert "complete" in fresh("-m", "interp", *words).stdout
    listed = fresh("-m", "interp", "list", str(run.folder.parent)).stdout
    assert listed.strip().endswith("needs --import tests.guests.greater")
    own = "tests.guests.greater:Greater with tests.guests.attention_only:AttentionOnly; 20"
    assert own in fresh("-m", "interp", "list", str(run.folder.parent), *both).stdout
    wrong = fresh("-m", "interp", "--import", "tests.guests.absent", "list")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("interp: `--import` tests.guests.absent failed: ModuleNotFoundError")


def test_a_recipe_of_ones_own_is_trained_from_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import interp\n"
        "from tests.guests.greater import Greater\n"
        'config = interp.recipes.get("kitouni-circle").replace({"task": Greater(n=5), "steps": 2})\n'
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from interp.cli import main; main(sys.argv[1:])"
    words = ("train", "mine:config", "--root", str(tmp_path), "--task.n", "6", "--model.d-model", "8")
    found = fresh("-c", code, "--import", "mine", *words)
    assert found.returncode == 0, found.stderr
    assert [path.name[:20] for path in tmp_path.glob("greater*")] == ["greater6-transformer"]


STUDY = """
import interp
def readout(model):
    return sum(parameter.square().sum() for parameter in model.parameters())
def rows(batch):
    return batch.steps * 2.0
doubled = interp.Measure("doubled", rows)
panel = interp.plots.curve_panel("doubled-steps", [doubled], title="Doubled", y="steps")
"""


def test_measures_and_panels_of_ones_own_come_from_an_imported_module(toy_run, tmp_path, capsys, monkeypatch):
    (tmp_path / "my_study.py").write_text(STUDY)
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["measure", str(toy_run.folder), "my_study:doubled", "my_study:readout"]

    def refused(*words):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "`interp --import my_study ...` imports it" in refused(*words)  # by itself nothing is imported
    main(["--import", "my_study", *words])
    assert {"doubled", "readout"} <= set(capsys.readouterr().out.split())
    assert "`my_study` has no `double`. Did you mean `doubled`" in refused(*words[:2], "my_study:double")
    page = tmp_path / "page.html"
    main(["report", str(toy_run.folder), "--output", str(page), "--panels", "my_study:panel"])
    assert "doubled-steps" in page.read_text()
    capsys.readouterr()
    for path in ("my_study.py", "./my_study", "folder/my_study.py"):
        assert f"not a path; got {path}. Write `--import my_study` in its folder" in refused("--import", path, "list")
    assert "`--import` leaves failed: SystemExit: 3" in refused("--import", "leaves", "list")


def test_worker_processes_need_classes_that_can_be_imported(tmp_path):
    code = (
        "from dataclasses import dataclass\n"
        "import interp\n"
        "from tests.guests.greater import Greater\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(Greater):\n"
        "    pass\n"
        'base = interp.recipes.get("kitouni-circle").replace({"task": Mine(n=5), "steps": 2})\n'
        f"interp.sweep(base, {{}}, seeds=[0, 1], workers=2, root={str(tmp_path)!r})\n"
    )
    refused = fresh("-c", code)
    assert (
        refused.stderr.strip()
        .splitlines()[-1]
        .startswith(
            "interp.errors.InvalidArgumentError: `Mine` of an interactive session must be put into a module that can be"
        )
    )
    assert not list(tmp_path.iterdir())


# --- what is refused --------------------------------------------------------------------------------------------------


def test_json_names_the_module(run):
    data = json.loads(run.config.to_json())
    assert data["task"]["kind"] == "tests.guests.greater:Greater"
    assert RunConfig.from_json(run.config.to_json()) == run.config
    for kind, message in (
        ("tests.guests.greater:Smaller", "must name a frozen dataclass derived from TaskConfig; .*has no `Smaller`"),
        ("tests.guests.attention_only:AttentionOnly", "must name a frozen dataclass derived from TaskConfig"),
        ("os:system", "must name a frozen dataclass derived from TaskConfig"),
        ("nowhere.at_all:Greater", "a stored config never imports one"),
        ("Greater", "must be one of Modular, Group"),
    ):
        with pytest.raises(ConfigError, match=message):
            RunConfig.from_dict(data | {"task": data["task"] | {"kind": kind}})
    assert "nowhere" not in sys.modules


def test_fields_are_checked_as_built_in_ones_are():
    with pytest.raises(ConfigError, match=r"`Greater.n` must be a whole number; got 2.5"):
        Greater(n=2.5)
    with pytest.raises(ConfigError, match=r"`Greater.n` must be >= 2; got 1"):
        Greater(n=1)
    with pytest.raises(ConfigError, match=r"There is no field `task.m` in Greater"):
        config_of(Greater(), SMALL).replace({"task.m": 3})


def test_a_class_that_cannot_be_found_again_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class Local(Greater):
        pass

    with pytest.raises(ConfigError, match="must be defined at the top level of a module"):
        _ = config_of(Local(), SMALL).run_id


class Bare(Greater):
    """Without its @dataclass."""

    more: int = 3


def test_a_class_without_dataclass_is_refused():
    with pytest.raises(ConfigError, match=r"`RunConfig.task` must be a frozen dataclass: put @dataclass"):
        config_of(Bare(), SMALL)


def test_an_mlp_reads_two_operands():
    with pytest.raises(ConfigError, match=r"reads the two operands: `task\.encoding` must be operands"):
        config_of(ThreeSum(), FeedForward())


@dataclass(frozen=True, kw_only=True)
class Odd(Task):
    """Changes one thing of examples that are right."""

    wrong: str = ""

    def examples(self) -> Examples:
        tokens, train = torch.arange(4)[:, None], torch.tensor([True, True, False, False])
        fields = {"tokens": tokens, "labels": tokens[:, 0] % 2, "train": train, "test": ~train} | {
            "": {},
            "labels": {"labels": tokens[:, 0]},
            "shape": {"labels": torch.zeros(3, dtype=torch.long)},
            "none trained": {"train": ~train & train},
            "both sides": {"test": train},
            "rows": {"tokens": tokens[:, [0, 0]], "inputs": Tuples(Residues(3))},
        }[self.wrong]
        return Examples.of(**({"inputs": Tuples(Numbers(4), arity=1), "answers": Classes(2)} | fields))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("labels", r"`labels` must be classes in 0 .. 1 \(2 classes\); got 3"),
        ("shape", r"`labels` must have one entry for each of 4 inputs; got shape \(3,\)"),
        ("none trained", "`train` must hold at least one input"),
        ("both sides", "`train` and `test` must have no input in common; got 2"),
        ("rows", "a row for each of the 9 pairs of residues mod 3, lexicographic; got 4 rows"),
    ],
)
def test_examples_that_contradict_themselves_are_refused(wrong, message, as_users_run_it):
    assert build_task(Odd()).d_vocab == 4
    with pytest.raises(InvalidArgumentError, match=message):
        build_task(Odd(wrong=wrong))


@dataclass(frozen=True, kw_only=True)
class Part(Record):
    """A config within a config."""

    width: int = 3


@dataclass(frozen=True, kw_only=True)
class Nested(Greater):
    part: Part = Part()
    parts: tuple[Part, ...] = ()


def test_configs_within_configs_travel():
    config = config_of(Nested(part=Part(width=5)), SMALL)
    assert RunConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["task"]["part"]["kind"] == "tests.guests.test_guests:Part"


@dataclass(frozen=True, kw_only=True)
class Listed(Greater):
    values: list[int] = None


@dataclass(frozen=True, kw_only=True)
class Slashed(Greater):
    slug = "a/b"


def test_fields_that_json_cannot_hold_and_names_that_are_no_folders_are_refused():
    with pytest.raises(ConfigError, match=r"`Listed.values` must be annotated as a value that a config can hold.*list"):
        Listed()
    with pytest.raises(ConfigError, match=r"`Slashed.slug` is a part of a folder's name.*got 'a/b'"):
        config_of(Slashed(), SMALL)


# --- objectives and points --------------------------------------------------------------------------------------------


class Hinge(Objective):
    """A user's own objective: max(0, 1 - margin) of the answer's logit over the best other one."""

    def loss(self, outputs, labels, precision="float64", kind="cross-entropy", weights=None):
        own = outputs.gather(-1, labels[..., None])
        margin = (own - outputs.scatter(-1, labels[..., None], -torch.inf).amax(-1, keepdim=True))[..., 0]
        return mean_of((1 - margin).relu(), weights), margin.detach() > 0


@dataclass(frozen=True, kw_only=True)
class Disc(Task):
    """Points of the plane, and whether they lie within the unit circle."""

    n: int = 60
    seed: int = 0
    closed: bool = False
    encoding = "points"
    losses = ("cross-entropy",)
    loss_words = "hinge loss"

    def examples(self) -> Examples:
        points = torch.randn(self.n, 2, generator=generator(self.seed, "points"))
        inside, (train, test) = (points.norm(dim=1) < 1).long(), split(self.n, 0.5, self.seed)
        return Examples.of(
            points,
            inside,
            train,
            test,
            inputs=Points(2),
            answers=Sides() if self.closed else Classes(2),
            objective=OneClass(1.0) if self.closed else Hinge(),
        )


@dataclass(frozen=True, kw_only=True)
class PointsMLP(Model):
    encodings = ("points",)

    def build(self, sizes, generator):
        layers = nn.Sequential(nn.Linear(sizes.n_ctx, 32), nn.ReLU(), nn.Linear(32, sizes.d_vocab_out))
        return PointsNetwork(layers)


class PointsNetwork(Network):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, points):
        return self.layers(points)


def test_an_objective_of_ones_own_on_points(tmp_path):
    config = config_of(Disc(), PointsMLP()).replace({"optimizer.lr": 1e-2})
    traj = interp.train(config, root=tmp_path / "alone", device="cpu")
    labels, task = traj.task.labels, traj.task
    logits = traj.model()(task.tokens).detach()
    margin = (logits[:, 1] - logits[:, 0]) * (2 * labels - 1)
    np.testing.assert_allclose(traj.metrics.train_loss[-1], float((1 - margin).relu()[task.train].mean()), rtol=1e-5)
    np.testing.assert_allclose(traj.metrics.test_accuracy[-1], float((margin > 0).double()[task.test].mean()))
    assert traj.metrics.train_loss[-1] < traj.metrics.train_loss[0]
    assert traj.metrics.attrs["loss"] == "hinge loss"
    together = interp.train_many([config, config.replace({"seed": 1})], root=tmp_path / "together", device="cpu")
    np.testing.assert_allclose(together[0].metrics.train_loss, traj.metrics.train_loss, atol=1e-4)


def test_closed_forms_are_a_planes(tmp_path):
    with pytest.raises(ConfigError, match=r"OneClass has closed forms for a plane S.x \+ b alone"):
        interp.train(config_of(Disc(closed=True), PointsMLP()), root=tmp_path, device="cpu")
    with pytest.raises(ConfigError, match="A Logistic model has one logit, whose sign is the answer; the task has 2"):
        interp.train(config_of(Disc(), Logistic()), root=tmp_path, device="cpu")
    with pytest.raises(ConfigError, match=r"A FeedForward model reads the two operands|Points are classified"):
        config_of(Disc(), FeedForward())
    assert not any(tmp_path.iterdir())


class Net(Network):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(12, 4), layer

    def forward(self, tokens):
        return self.layer(self.table(tokens).flatten(1))


@dataclass(frozen=True, kw_only=True)
class Peculiar(Model):
    """A model that breaks a rule."""

    rule: str

    def build(self, sizes, generator):
        match self.rule:
            case "buffers":
                return Net(nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 2)))
            case "dropout":
                return Net(nn.Sequential(nn.Dropout(0.1), nn.Linear(12, 2)))
            case "no network":
                return nn.Linear(12, 2)
        return Net(InPlace())


class InPlace(nn.Module):
    """Asks for a number, which torch.func.vmap does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(12, 2)

    def forward(self, x):
        return self.out(x) if float(self.out.weight.detach().sum()) < 1e9 else x


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("buffers", "must keep its constants in buffers that are not persistent.*layer.0.num_batches_tracked"),
        ("dropout", "must draw in `Network.dropout_mask`.*got dropout in layer.0"),
        ("no network", "`Peculiar.build` must return an interp.models.Network; got Linear"),
    ],
)
def test_networks_that_could_not_be_stored_or_repeated_are_refused(rule, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        interp.train(config_of(Greater(), Peculiar(rule=rule)), root=tmp_path, device="cpu")
    assert not any(tmp_path.iterdir())


def test_a_pass_that_is_not_batched_is_refused_for_ensembles_alone(tmp_path):
    config = config_of(Greater(), Peculiar(rule="in place"))
    configs = [config, config.replace({"seed": 1})]
    with pytest.raises(
        ConfigError, match=r"`Peculiar` cannot be trained in an ensemble.*vmap.* Train these runs one by"
    ):
        interp.train_many(configs, root=tmp_path, device="cpu")
    assert not any(tmp_path.iterdir())
    assert interp.train(config, root=tmp_path, device="cpu").complete
