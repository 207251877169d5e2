"""Files of a user's own module: each checkpoint goes into the module, strictly, and the recorder stores it."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import interp
from interp.cli import main
from interp.config import Modular
from interp.errors import ConfigError, ForeignFormatError, InvalidArgumentError, NotAvailableError, UnknownNameError
from interp.importers import import_checkpoints, plan_import

P = 5
NAMES = {"tok.weight": "embed.W_E", "out.weight": ("unembed.W_U", "T")}


class Net(nn.Module):
    def __init__(self, p=P, d=6, hidden=8):
        super().__init__()
        self.tok = nn.Embedding(p, d)
        self.hidden = nn.Linear(2 * d, hidden)
        self.act = nn.ReLU()
        self.out = nn.Linear(hidden, p, bias=False)

    def forward(self, pairs):
        return self.out(self.act(self.hidden(self.tok(pairs).flatten(1))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(P, 6)
        self.head = nn.Linear(6, P, bias=False)
        self.head.weight = self.tok.weight
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))

    def forward(self, pairs):
        return self.head(self.tok(pairs).sum(1))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def networks(n=3, kind=Net):
    made = []
    for seed in range(n):
        torch.manual_seed(seed)
        made.append(kind())
    return made


def table():
    pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    train = torch.arange(P * P) % 2 == 0
    return interp.tasks.table(pairs, pairs.sum(1) % P, train=train, answers_are="residues", p=P)


def saved(folder, models, wrap=lambda state: state, name="epoch_{}.pt", save=torch.save):
    folder.mkdir(exist_ok=True)
    for i, model in enumerate(models):
        save(wrap(model.state_dict()), folder / name.format(10 * i))
    return folder


def said(traj):
    return " / ".join(traj.run["record"]["files"]["said"])


def refused(path, tmp_path, error=ForeignFormatError, **options):
    """The message of the refusal, in one line, which leaves nothing behind."""
    with pytest.raises(error) as caught:
        import_checkpoints(path, root=tmp_path / "refused", **{"model": Net(), **options})
    (message,) = caught.value.args
    assert message.isprintable(), message
    assert not list((tmp_path / "refused").glob("*"))
    return message


def same_weights(traj, models):
    assert len(traj.steps) == len(models)
    pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    for step, model in zip(traj.steps, models, strict=True):
        with torch.no_grad():
            assert torch.equal(traj.model(int(step))(pairs), model(pairs))


def test_a_folder_by_epochs(tmp_path):
    models = networks()
    own = Net()
    before = [x.clone() for x in own.parameters()]
    traj = import_checkpoints(
        saved(tmp_path / "f", models), root=tmp_path, model=own, names=NAMES, task=table(), neurons="act"
    )
    same_weights(traj, models)
    assert traj.steps.tolist() == [0, 10, 20]
    assert traj.complete
    assert not traj.problems
    assert all(torch.equal(x, y) for x, y in zip(own.parameters(), before))
    assert np.array_equal(traj.param("unembed.W_U")[2], models[2].out.weight.detach().numpy().T)
    data = interp.measure(traj, ["test_loss", "embedding_power", "neuron_logit_key_share"])
    assert data.test_loss.shape == (3,)
    assert "neuron_logit_key_share" in data
    assert traj.kind.words == f"imported, the module {__name__}.Net"


def test_a_recording_of_the_same_weights_is_the_same_run(tmp_path):
    """Names, transposes, the hidden layer and the noted logits are the recorder's: one machinery."""
    models = networks()
    options = {"names": NAMES, "task": table(), "neurons": "act"}
    traj = import_checkpoints(saved(tmp_path / "f", models), root=tmp_path, model=Net(), **options)
    live = Net()
    live.load_state_dict(models[0].state_dict())
    with interp.record(tmp_path / "recorded", live, save="every(10)", steps=20, **options) as rec:
        for step in range(1, 21):
            if step % 10 == 0:
                live.load_state_dict(models[step // 10].state_dict())
            rec.step()
    recorded = rec.trajectory
    assert recorded.config == traj.config
    for name in recorded.names:
        assert np.array_equal(recorded.param(name)[:], traj.param(name)[:])
    both = ({**run["record"], "files": None} for run in (recorded.run, traj.run))
    assert next(both) == next(both)


def test_it_opens_with_the_module_and_without(tmp_path):
    models = networks()
    traj = import_checkpoints(saved(tmp_path / "f", models), root=tmp_path, model=Net(), names=NAMES, task=table())
    bare = interp.load(traj.folder)
    assert "weight_norm" in interp.measure(bare, ["weight_norm"])
    with pytest.raises(NotAvailableError, match=r"model=Net\(...\)"):
        bare.model(10)(torch.zeros(1, 2, dtype=torch.long))
    same_weights(interp.load(traj.folder, model=Net()), models)
    with pytest.raises(NotAvailableError, match="must have the parameters that the run stores"):
        interp.load(traj.folder, model=Net(hidden=9))


def test_without_a_task_weights_alone(tmp_path):
    traj = import_checkpoints(saved(tmp_path / "f", networks()), root=tmp_path, model=Net(), names=NAMES)
    assert traj.run["record"]["files"]["task"].startswith("none")
    data = interp.measure(traj)
    assert "weight_norm" in data
    assert "test_loss" not in data


def test_a_config_is_a_task(tmp_path):
    folder = saved(tmp_path / "f", networks())
    traj = import_checkpoints(folder, root=tmp_path, model=Net(), task=Modular(p=P, encoding="operands"))
    fields = {"task.p": P, "task.encoding": "operands"}
    other = import_checkpoints(folder, root=tmp_path / "b", model=Net(), assume=fields)
    assert other.config == traj.config
    assert traj.task.p == P
    assert "leave out task.p" in refused(folder, tmp_path, ConfigError, task=table(), assume=fields)
    assert "can have task.FIELD and steps" in refused(folder, tmp_path, ConfigError, assume={"model.d_mlp": 3})


@pytest.mark.parametrize("wrap", [
    lambda state: {"model_state_dict": state, "optimizer": {"lr": 1.0}},
    lambda state: {f"_orig_mod.{name}": x for name, x in state.items()},
    lambda state: {"state_dict": {f"net.{n}": x for n, x in state.items()} | {"loss.weight": torch.ones(2)}},
])  # fmt: skip
def test_wrappers_and_prefixes(wrap, tmp_path):
    models = networks()
    traj = import_checkpoints(saved(tmp_path / "f", models, wrap), root=tmp_path, model=Net(), task=table())
    same_weights(traj, models)
    if "loss.weight" in str(wrap(models[0].state_dict())):
        assert "`loss.weight`" in said(traj)


def test_other_containers(tmp_path):
    models = networks()
    states = [model.state_dict() for model in models]
    torch.save(states, tmp_path / "list.pt")
    listed = import_checkpoints(tmp_path / "list.pt", root=tmp_path, model=Net(), task=table())
    same_weights(listed, models)
    assert interp.measure(listed, ["weight_norm"]).attrs["counts"] == "checkpoints"
    given = import_checkpoints(tmp_path / "list.pt", root=tmp_path, model=Net(), task=table(), steps=[0, 7, 9])
    assert given.steps.tolist() == [0, 7, 9]
    assert "counts" not in interp.measure(given, ["weight_norm"]).attrs
    folder = saved(tmp_path / "s", models, name="step_{}.safetensors", save=save_file)
    same_weights(import_checkpoints(folder, root=tmp_path, model=Net(), task=table()), models)
    np.savez(tmp_path / "w.npz", **{name: x.numpy() for name, x in states[1].items()})
    same_weights(import_checkpoints(tmp_path / "w.npz", root=tmp_path, model=Net(), task=table()), models[1:2])


def test_tied_weights_and_masks(tmp_path):
    """A tied tensor may stand under one of its names or both; a mask of -inf is no diverged weight."""
    models = networks(kind=Tied)
    for drop in ("tok.weight", "head.weight", ""):

        def wrap(state, drop=drop):
            return {name: x for name, x in state.items() if name != drop}

        folder = saved(tmp_path / f"f{drop}", models, wrap)
        same_weights(import_checkpoints(folder, root=tmp_path / f"r{drop}", model=Tied(), task=table()), models)
    apart = saved(tmp_path / "apart", models, lambda state: {**state, "head.weight": state["tok.weight"] + 1})
    assert "tied in Tied; they differ" in refused(apart, tmp_path, model=Tied())


def test_what_does_not_fit_is_named(tmp_path):
    models = networks(2)

    def folder(name, change):
        return saved(tmp_path / name, models, lambda state: change(dict(state)))

    lacking = folder("a", lambda s: {name: x for name, x in s.items() if name != "hidden.bias"})
    assert "lacks `hidden.bias`." in refused(lacking, tmp_path)
    besides = folder("b", lambda s: s | {"scale": torch.ones(1)})
    assert "holds besides `scale`. `names` with null (None) leaves" in refused(besides, tmp_path)
    same_weights(import_checkpoints(besides, root=tmp_path, model=Net(), task=table(), names={"scale": None}), models)
    shaped = folder("c", lambda s: s | {"hidden.bias": torch.ones(9)})
    assert "in another shape `hidden.bias (9,) for (8,)`" in refused(shaped, tmp_path)
    twice = folder("d", lambda s: {f"{head}.{name}": x for head in ("student", "teacher") for name, x in s.items()})
    assert "under `student.`, `teacher.`" in refused(twice, tmp_path)
    mixed = saved(tmp_path / "e", models)
    torch.save(models[0].state_dict() | {"late": torch.ones(1)}, mixed / "epoch_0.pt")
    assert "Checkpoint 0 in epoch_0.pt must have" in refused(mixed, tmp_path)


def test_arguments_that_have_no_meaning(tmp_path):
    folder = saved(tmp_path / "f", networks())
    assert "give one of them" in refused(folder, tmp_path, ConfigError, format="transformer")
    assert "must come with `model`" in refused(folder, tmp_path, ConfigError, model=None, neurons="act")
    assert "torch.nn.Module; got a type" in refused(folder, tmp_path, InvalidArgumentError, model=Net)
    assert "no `tik.weight`. Did you mean" in refused(folder, tmp_path, UnknownNameError, names={"tik.weight": "a"})
    assert '"stored.name"' in refused(folder, tmp_path, InvalidArgumentError, names={"tok.weight": ["a"]})
    seven = Modular(p=7, encoding="operands")
    assert "must give 7 logits" in refused(folder, tmp_path, InvalidArgumentError, task=seven)


def test_checkpoints_that_are_not_finite_are_left_out(tmp_path):
    models = networks(4)
    with torch.no_grad():
        models[0].tok.weight[0, 0] = models[2].hidden.bias[1] = torch.nan
    folder = saved(tmp_path / "f", models)
    plan = plan_import(folder, model=Net(), task=table())
    traj = import_checkpoints(folder, root=tmp_path, model=Net(), task=table())
    same_weights(traj, [models[1], models[3]])
    assert traj.steps.tolist() == [10, 30]
    assert traj.complete
    assert traj.diverged is None
    for name in ("epoch_0.pt: `tok.weight`", "epoch_20.pt: `hidden.bias`"):
        assert f"{name} must hold finite numbers" in said(traj)
    assert plan.config == traj.config
    assert dict(plan.found) == traj.run["record"]["files"]
    with torch.no_grad():
        for model in models:
            model.tok.weight.fill_(torch.inf)
    assert "must hold finite" in refused(saved(tmp_path / "g", models), tmp_path)


def test_files_are_imported_once(tmp_path):
    folder = saved(tmp_path / "f", networks())
    first = import_checkpoints(folder, root=tmp_path, model=Net(), task=table())
    when = (first.folder / "run.json").stat().st_mtime_ns
    again = import_checkpoints(folder, root=tmp_path, model=Net(), task=table())
    assert again.folder == first.folder
    assert (first.folder / "run.json").stat().st_mtime_ns == when
    assert import_checkpoints(folder, root=tmp_path, model=Net()).folder != first.folder


def test_an_interrupted_import_leaves_nothing(tmp_path, monkeypatch):
    folder = saved(tmp_path / "f", networks())
    monkeypatch.setattr(
        interp.recording.Recorder, "arrive", lambda self, step: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        import_checkpoints(folder, root=tmp_path / "runs", model=Net())
    assert not list((tmp_path / "runs").iterdir())


# --- from the command line --------------------------------------------------------------------------------------------

MODULE = """
import torch, interp
from torch import nn
class MyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(5, 6)
        self.out = nn.Linear(6, 5, bias=False)
    def forward(self, pairs):
        return self.out(self.tok(pairs).sum(1))
class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()
def task():
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    return interp.tasks.table(pairs, pairs.sum(1) % 5, train=pairs[:, 0] > 1, answers_are="residues", p=5)
"""


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    (tmp_path / "imported_net.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    yield tmp_path
    sys.modules.pop("imported_net", None)


def test_the_command_line(my_module, capsys):
    torch.manual_seed(0)
    for step in (100, 200):
        state = {"tok.weight": torch.rand(5, 6), "out.weight": torch.rand(5, 6)}
        (my_module / "f").mkdir(exist_ok=True)
        torch.save(state, my_module / "f" / f"step_{step}.pt")
    (my_module / "map.json").write_text(json.dumps({"tok.weight": "embed.W_E", "out.weight": ["unembed.W_U", "T"]}))
    words = ["import", "f", "--into", "runs", "--names", "map.json", "--model", "imported_net:MyNet"]
    main([*words, "--dry-run"])
    out = capsys.readouterr().out
    assert "Nothing is written" in out
    assert "Format:    the module imported_net.MyNet" in out
    assert "Task:      none" in out
    assert "Steps:     100, 200" in out
    assert not (my_module / "runs").exists()
    main([*words, "--task", "imported_net:task"])
    out = capsys.readouterr().out
    assert "pairs of residues mod 5" in out
    (run,) = (my_module / "runs").iterdir()
    sys.modules.pop("imported_net")
    assert interp.load(run).names == ("embed.W_E", "unembed.W_U")
    assert "imported_net" not in sys.modules  # a folder never causes an import
    main([*words, "--set", "task.p=5", "task.encoding=operands"])
    assert "Task:      add5, as given" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "imported_net"], "`--model` must be MODULE:NAME, such as my_module:MyNet"),
        (["--model", "no_such_module:Net"], "`--model` no_such_module failed: ModuleNotFoundError"),
        (["--model", "imported_net:MyNett"], "has no `MyNett`. Did you mean `MyNet`"),
        (["--model", "imported_net:Wide"], "must be made without arguments; it raised TypeError"),
        (["--model", "imported_net:MyNet", "--as", "mlp"], "leave out `--as`"),
        (["--task", "imported_net:task"], "`task` must come with `model`"),
    ],
)
def test_words_that_are_wrong(flags, message, my_module, capsys):
    torch.save({"tok.weight": torch.rand(5, 6), "out.weight": torch.rand(5, 6)}, my_module / "m.pt")
    with pytest.raises(SystemExit) as end:
        main(["import", "m.pt", "--into", "runs", *flags])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
