"""Mistakes in a user's own task or model are refused in one line, before anything is stored."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import interp
from interp.config import RunConfig, Transformer
from interp.errors import ConfigError, CorruptRunError, InterpError, NotImportedError
from interp.models import Model, Network
from interp.tasks import Classes, Examples, Residues, Sequences, Task, Tuples, split, tuples_of
from tests.guests.greater import Greater

STATE = {"changed": False}
"""Stands for an edit of a class between training and loading."""


class Net(Network):
    """A network that is right until one thing of it is replaced."""

    def __init__(self, sizes, change) -> None:
        super().__init__()
        width = 5 if STATE["changed"] else 4
        self.embed = nn.Embedding(sizes.d_vocab, width)
        self.out = nn.Linear(width, sizes.d_vocab_out + (change == "width"))
        self.change = change
        if change == "numpy":
            self.out.bias.data += np.random.rand()  # noqa: NPY002

    def forward(self, tokens):
        x = self.out(self.embed(tokens).sum(1))
        match self.change:
            case "tuple":
                return x, x
            case "one axis":
                return x[:, 0]
            case "batch":
                return x[:-1]
            case "random":
                return x + torch.rand(())
            case "python random":
                return x * random.random()
            case "raises":
                return x.reshape(3, 7)
            case "detached":
                return x.detach()
            case "whole":
                return x.long()
        return x


class Text(Net):
    embeddings = "embed.weight"


class Absent(Net):
    embeddings = ("embed.W_E",)


class ReadOut(Net):
    read_out = "W_U"


class AxesOfNothing(Net):
    axes = {"embed.W_E": ("token", "d_model")}  # noqa: RUF012


class OneAxis(Net):
    axes = {"embed.weight": ("token",)}  # noqa: RUF012


class Neurons(Net):
    has_neurons = True


NETWORKS = {cls.__name__: cls for cls in (Text, Absent, ReadOut, AxesOfNothing, OneAxis, Neurons)}


@dataclass(frozen=True, kw_only=True)
class Wrong(Model):
    change: str = ""

    def build(self, sizes, generator):
        if self.change == "build":
            raise KeyError("one\ntwo")
        return NETWORKS.get(self.change, Net)(sizes, self.change)


@dataclass(frozen=True, kw_only=True)
class Changed(Task):
    change: str = ""
    seed: int = 0
    encoding = "operands"

    def examples(self) -> Examples:
        tokens = tuples_of(Residues(5))
        labels = tokens.sum(1) % 5
        train, test = split(len(tokens), 0.5, self.seed + STATE["changed"])
        fields = {"tokens": tokens, "labels": labels, "train": train, "test": test}
        fields |= {"inputs": Tuples(Residues(5)), "answers": Residues(5), "operation": "add"}
        match self.change:
            case "list":
                fields["labels"] = labels.tolist()
            case "numpy":
                fields["tokens"] = tokens.numpy()
            case "answers":
                fields["answers"] = 5
            case "inputs":
                fields["inputs"] = Tuples
            case "word":
                fields["operation"] = "plus"
            case "flipped":
                fields |= {"tokens": tokens.flip(0), "operation": ""}
            case "operation":
                fields["operation"] = "multiply"
            case "subtract":
                fields |= {"labels": (tokens[:, 0] - tokens[:, 1]) % 5, "operation": "subtract"}
            case "divide":
                fields |= {"labels": (tokens[:, 0] * tokens[:, 1] ** 3) % 5, "operation": "divide"}
                fields |= {side: fields[side] & (tokens[:, 1] != 0) for side in ("train", "test")}
            case "sequences":
                fields |= {"tokens": tokens.flip(0), "operation": "", "inputs": Sequences(), "answers": Classes(5)}
            case "returns":
                return fields
            case "raises":
                raise ZeroDivisionError("one\ntwo")
        return Examples.of(**fields)


def config_of(task=Changed(), model=Wrong()):
    changes = {"steps": 4, "save.weights": "every(2)", "save.state": "every(2)", "log.test": "every(2)"}
    return interp.recipes.get("kitouni-circle").replace({"task": task, "model": model, **changes})


MODELS = {
    "width": r"`Net.forward` must return a floating tensor .* d_vocab_out = 5; got shape \[5, 6\]",
    "tuple": r"got a tuple",
    "one axis": r"got shape \[5\]",
    "batch": r"batch = 5 .* got shape \[4, 5\]",
    "whole": r"got a tensor of torch.int64",
    "random": r"`Net.forward` must give equal outputs .* declare `dropout_mask`",
    "python random": r"`Net.forward` must give equal outputs",
    "numpy": r"differ in out.bias: `build` draws from another generator than torch's",
    "raises": r"`Net.forward` raised RuntimeError for tokens \[5, 2\]: shape '\[3, 7\]'",
    "build": r"`Wrong.build` raised KeyError: 'one",
    "detached": r"`Net.forward` must return outputs with a gradient",
    "Text": r'`Text.embeddings` must be a tuple of names; got \'embed.weight\': write \("embed.weight",\)',
    "Absent": r"`Absent.embeddings` must name .* 5 tokens; got 'embed.W_E', which is none of embed.weight",
    "ReadOut": r"`ReadOut.read_out` must name a parameter, or be empty; got 'W_U'",
    "AxesOfNothing": r"`AxesOfNothing.axes` must hold a name for each axis .* none of",
    "OneAxis": r"got \('token',\) for 'embed.weight', of shape \[5, 4\]",
    "Neurons": r"`Neurons.has_neurons` must be False where `answer` is not overridden",
}
TASKS = {
    "list": r"`labels` must be a tensor; got a list: write torch.as_tensor\(labels\)",
    "numpy": r"`tokens` must be a tensor; got a ndarray",
    "answers": r"`answers` must be an alphabet .* got 5",
    "inputs": r"`inputs` must be a declaration .* got the class Tuples; write",
    "word": r"`operation` must be add, .* got 'plus'",
    "flipped": r"`tokens` must hold operand 0 of the pairs of residues mod 5 in a column",
    "operation": r"`operation` 'multiply' must give the labels; it does not for \d+ of 25 inputs, such as \(0, 1\)",
    "returns": r"`Changed.examples` must return Examples.* got a dict",
    "raises": r"`Changed.examples` raised ZeroDivisionError: one two",
}
MISTAKES = [(config_of(model=Wrong(change=change)), says) for change, says in MODELS.items()] + [
    (config_of(task=Changed(change=change)), says) for change, says in TASKS.items()
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("config", "says"), MISTAKES, ids=[*MODELS, *(f"task: {change}" for change in TASKS)])
def test_a_mistake_is_refused_in_one_line(config, says, tmp_path):
    with pytest.raises(InterpError, match=says) as caught:
        interp.train(config, root=tmp_path, device="cpu")
    assert "\n" not in caught.value.args[0]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["", "subtract", "divide", "sequences"])
def test_examples_that_are_right_are_not_refused(change):
    assert interp.tasks.build_task(Changed(change=change)).d_vocab == 5


def test_a_class_in_place_of_its_value_asks_for_parentheses():
    with pytest.raises(
        ConfigError, match=r"`RunConfig.task` must be a value; got the class Greater: write Greater\(\)"
    ):
        config_of(task=Greater)


@pytest.fixture
def run(tmp_path):
    return interp.train(config_of(), root=tmp_path, device="cpu")


def test_a_task_that_changed_since_is_refused(run, monkeypatch):
    assert len(run.run["examples"]) == 32
    monkeypatch.setitem(STATE, "changed", True)
    for read in (lambda: interp.load(run.folder).task, lambda: interp.replay(run, 2, 4)):
        with pytest.raises(InterpError, match=r"The class Changed gives other examples than when"):
            read()


def test_a_model_that_changed_since_is_refused(tmp_path, monkeypatch):
    run = interp.train(config_of(task=Greater(n=5)), root=tmp_path, device="cpu")
    monkeypatch.setitem(STATE, "changed", True)
    with pytest.raises(
        InterpError, match=r"Net has other parameters than the run stores, `embed.weight` being"
    ) as caught:
        interp.load(run.folder).model()
    assert "\n" not in caught.value.args[0]


def test_a_replay_that_differs_names_the_class(run):
    with pytest.raises(CorruptRunError, match="for a Changed or Wrong that has not changed"):
        run.require_equal(2, {name: run.param(name).sel(step=4) for name in run.names})


def test_a_built_in_run_has_no_digest(tmp_path):
    small = Transformer(d_model=8, n_heads=2, d_head=4, d_mlp=8)
    config = config_of(task=interp.config.Modular(p=5), model=small)
    assert "examples" not in interp.train(config, root=tmp_path, device="cpu").run


def test_a_class_of_a_script_is_to_go_into_a_module():
    text = config_of().to_json().replace("tests.guests.test_mistakes:Changed", "__main__:Changed")
    with pytest.raises(NotImportedError, match="Put the class into a module of its own"):
        RunConfig.from_json(text)


@dataclass(frozen=True, kw_only=True)
class Odd(Model):
    """A model with a parameter that is unusual, but trainable or refused."""

    parameter: str = "transposed"

    def build(self, sizes, generator):
        return OddNet(sizes, self.parameter)


class OddNet(Network):
    def __init__(self, sizes, parameter) -> None:
        super().__init__()
        self.embed = nn.Embedding(sizes.d_vocab, 8)
        self.out = nn.Linear(8, sizes.d_vocab_out)
        match parameter:
            case "transposed":
                self.W = nn.Parameter(torch.randn(8, 8).T)
            case "expanded":
                self.W = nn.Parameter(torch.randn(8, 1).expand(8, 8))
            case "bfloat16":
                self.W = nn.Parameter(torch.randn(8, 8, dtype=torch.bfloat16))
            case "lazy":
                self.layer = nn.LazyLinear(8)
            case "late":
                self.W = None

    def forward(self, tokens):
        if self.W is None:
            self.W = nn.Parameter(torch.ones(8, 8))
        return self.out(self.embed(tokens).sum(1) @ self.W.to(torch.float32))


SHORT = {"steps": 12, "save.weights": "every(3)", "save.state": "every(6)", "log.test": "every(3)"}


class Stop(interp.Observer):
    def before_step(self, run, step):
        if step == 8:
            raise interp.training.StopTraining


@pytest.mark.parametrize("parameter", ["transposed", "expanded"])
def test_parameters_of_any_strides_resume_bit_for_bit(parameter, tmp_path):
    config = RunConfig(task=Greater(n=5), model=Odd(parameter=parameter)).replace(SHORT)
    whole = interp.train(config, root=tmp_path / "whole", device="cpu")
    interp.train(config, root=tmp_path / "parts", device="cpu", observers=[Stop()])
    resumed = interp.resume(tmp_path / "parts" / config.run_id)
    assert resumed.complete
    assert resumed.fingerprints() == whole.fingerprints()


@pytest.mark.parametrize(
    ("parameter", "says"),
    [("bfloat16", "`W` is torch.bfloat16"), ("lazy", "is not initialised"), ("late", "W is made in `forward`")],
)
def test_parameters_that_cannot_be_stored_are_refused(parameter, says, tmp_path):
    config = RunConfig(task=Greater(n=5), model=Odd(parameter=parameter)).replace(SHORT)
    with pytest.raises(ConfigError, match=says):
        interp.train(config, root=tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())
