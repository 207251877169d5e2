"""Configs as values: what they accept, what they say when they do not, and that they travel without loss."""

import dataclasses
import json
import math
import re
import subprocess
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from interp.config import SGD, Adam, AdamW, FeedForward, Log, Modular, RunConfig, Save, Sums, Transformer
from interp.config.schedule import AnyOf, Dense, Every, LogSpaced, Schedule, Steps, parse_schedule
from interp.errors import ConfigError

QUICK = settings(max_examples=100, deadline=None)

TASKS = "Modular, Group, Symbolic, Sums, Parity, Operations, Digits, Gaussian"
"""Kinds of tasks, as errors list them."""
CONFIGS = [
    RunConfig(),
    RunConfig(task=Modular(p=59, operation="divide", split="python-shuffle", seed=3), optimizer=SGD(momentum=0.9)),
    RunConfig(
        task=Modular(p=53, encoding="operands", train_fraction=0.6),
        model=FeedForward(d_hidden=(12, 10), init_stream="split"),
        optimizer=Adam(betas=(0.9, 0.98), batch_size=64, warmup_steps=10),
        save=Save(weights=LogSpaced(200) | Dense(10**9), state=Steps((3, 5))),
        log=Log(test=Every(7, until=70)),
    ),
    RunConfig(model=Transformer(n_layers=2, mlp_biases="trainable", init="nanda"), task=Modular(outputs="tokens")),
]


# --- travel -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.run_id)
def test_a_config_makes_the_round_trip(config):
    assert RunConfig.from_json(config.to_json()) == config
    assert RunConfig.from_dict(config.to_dict()) == config
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert RunConfig.from_json(json.dumps(json.loads(config.to_json()), indent=2)).to_json() == config.to_json()
    assert hash(RunConfig.from_json(config.to_json())) == hash(config)


def test_canonical_json_is_sorted_and_has_kinds_and_a_schema():
    text = RunConfig().to_json()
    data = json.loads(text)
    assert text == json.dumps(data, sort_keys=True, separators=(",", ":"))
    assert (data["schema"], data["kind"], data["model"]["kind"]) == (1, "RunConfig", "Transformer")
    assert data["save"]["weights"]["members"][0] == {"kind": "Every", "k": 1, "until": 100}


def test_equal_configs_have_equal_json():
    whole = RunConfig(optimizer=AdamW(weight_decay=1, lr=1), model=FeedForward(d_hidden=[12]), task=OPERANDS)
    broken = RunConfig(optimizer=AdamW(weight_decay=1.0, lr=1.0), model=FeedForward(d_hidden=(12,)), task=OPERANDS)
    assert whole == broken
    assert whole.to_json() == broken.to_json()
    assert whole.run_id == broken.run_id


OPERANDS = Modular(encoding="operands")


@QUICK
@given(
    st.integers(3, 200),
    st.floats(0.2, 0.8),
    st.floats(1e-6, 1e3),
    st.floats(0, 10),
    st.integers(0, 2**63 - 1),
    st.lists(st.integers(1, 512), min_size=1, max_size=3),
)
def test_numbers_survive_exactly(p, fraction, lr, weight_decay, seed, d_hidden):
    config = RunConfig(
        task=Modular(p=p, train_fraction=fraction, encoding="operands"),
        model=FeedForward(d_hidden=tuple(d_hidden)),
        optimizer=AdamW(lr=lr, weight_decay=weight_decay),
        seed=seed,
    )
    assert RunConfig.from_json(config.to_json()) == config


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().steps = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "`schema` of a config must be 1; got 2."),
        ({"schema": None}, "`schema` of a config must be 1; got None."),
        ({"stepz": 3}, "`config.stepz` is no field of RunConfig. Did you mean `steps`?"),
        ({"kind": "Run"}, "`config.kind` must be one of RunConfig; got 'Run'."),
        (
            {"task": {"kind": "Modula"}},
            f"`config.task.kind` must be one of {TASKS}; got 'Modula'.",
        ),
        ({"model": {"kind": "Transformer"}}, "`config.model` lacks the field(s) activation, attention, "),
        ({"optimizer": {"kind": "Lion"}}, "`config.optimizer.kind` must be one of AdamW, Adam, SGD, Muon; got 'Lion'."),
        ({"steps": "many"}, "`RunConfig.steps` must be a whole number; got 'many'."),
        (
            {"task": 3},
            f"`RunConfig.task` must be one of {TASKS}; got 3.",
        ),
        (
            {"task": None},
            f"`RunConfig.task` must be one of {TASKS}; got None.",
        ),
        (
            {"save": {"kind": "Save", "weights": {"kind": "Evry", "k": 1}, "state": 3}},
            "must be one of Every, LogSpaced",
        ),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig.from_dict(RunConfig().to_dict() | change)


def test_nested_unknown_keys_are_refused_with_a_suggestion():
    data = RunConfig().to_dict()
    data["task"]["train_fracton"] = data["task"].pop("train_fraction")
    message = "`config.task.train_fracton` is no field of Modular. Did you mean `train_fraction`?"
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig.from_dict(data)


@pytest.mark.parametrize(("text", "message"), [("{", "A config must be JSON; "), ("[]", "a JSON object; got list.")])
def test_what_is_no_json_object_is_refused(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig.from_json(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("steps", {"kind": "int"}),
        ("task", {"kind": []}),
        ("save", {"kind": "Save", "state": {"kind": "Steps", "steps_named": 3}, "weights": "every(1)"}),
        ("save", {"kind": "Save", "state": {"kind": "AnyOf", "members": 3}, "weights": "every(1)"}),
        ("save", {"kind": "Save", "state": {"kind": "AnyOf", "members": [1, 2]}, "weights": "every(1)"}),
    ],
    ids=["a kind that is a type", "a kind that is a list", "a number of steps", "a number of members", "no schedules"],
)
def test_malformed_files_are_refused(path, value):
    with pytest.raises(ConfigError):
        RunConfig.from_dict(RunConfig().to_dict() | {path: value})


# --- rules ------------------------------------------------------------------------------------------------------------

REFUSALS = [
    (Modular, {"p": 2}, "`Modular.p` must be a modulus >= 3; got 2."),
    (Modular, {"p": True}, "`Modular.p` must be a whole number; got True."),
    (Modular, {"p": 7.0}, "`Modular.p` must be a whole number; got 7.0."),
    (Modular, {"train_fraction": 0}, "`Modular.train_fraction` must be a share in (0, 1); got 0.0."),
    (Modular, {"train_fraction": 1.0}, "`Modular.train_fraction` must be a share in (0, 1); got 1.0."),
    (Modular, {"train_fraction": True}, "`Modular.train_fraction` must be a number; got True."),
    (Modular, {"train_fraction": math.nan}, "`Modular.train_fraction` must be finite; got nan."),
    (Modular, {"train_fraction": 1e-5}, "`Modular.train_fraction` must leave at least one of 12769 pairs on each side"),
    (Modular, {"seed": -1}, "`Modular.seed` must be in 0 .. 2^32-1; got -1."),
    (Modular, {"seed": 2**32}, "`Modular.seed` must be in 0 .. 2^32-1; got 4294967296."),
    (Modular, {"operation": "plus"}, "`Modular.operation` must be one of add, subtract, "),
    (Modular, {"operation": "divide", "p": 9}, "`Modular.operation` divide needs a prime p, "),
    (
        Modular,
        {"split": "torch"},
        "`Modular.split` must be one of torch-randperm, python-shuffle, numpy-shuffle, stored; got",
    ),
    (Modular, {"encoding": "operands", "outputs": "tokens"}, "`Modular.outputs` tokens needs encoding direct"),
    *(
        (Transformer, {name: 0}, f"`Transformer.{name}` must be >= 1; got 0.")
        for name in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp")
    ),
    (
        Transformer,
        {"activation": "sine"},
        "`Transformer.activation` must be one of relu, gelu, gelu_new, silu, tanh, sigmoid, softplus, square, "
        "identity; got 'sine'.",
    ),
    (Transformer, {"mlp_biases": True}, "`Transformer.mlp_biases` must be one of trainable, frozen, absent; got True."),
    (FeedForward, {"d_model": 0}, "`FeedForward.d_model` must be >= 1; got 0."),
    (FeedForward, {"d_hidden": ()}, "`FeedForward.d_hidden` must be one or more widths >= 1, such as (128,); got ()."),
    (FeedForward, {"d_hidden": (4, 0)}, "`FeedForward.d_hidden` must be one or more widths >= 1"),
    (FeedForward, {"d_hidden": 128}, "`FeedForward.d_hidden` must be a list of a whole number; got 128."),
    (FeedForward, {"d_hidden": (True,)}, "`FeedForward.d_hidden` must be a whole number; got True."),
    *(
        (cls, values, f"`{cls.__name__}.{message}")
        for cls in (AdamW, Adam, SGD)
        for values, message in (
            ({"lr": 0.0}, "lr` must be > 0; got 0.0."),
            ({"lr": math.inf}, "lr` must be finite; got inf."),
            ({"lr": "1e-3"}, "lr` must be a number; got '1e-3'."),
            ({"weight_decay": -1}, "weight_decay` must be >= 0; got -1.0."),
            ({"warmup_steps": -1}, "warmup_steps` must be >= 0; got -1."),
            ({"batch_size": 0}, "batch_size` must be >= 1, or None for a full batch; got 0."),
            ({"batch_size": True}, "batch_size` must be a whole number; got True."),
            ({"loss_precision": "float16"}, "loss_precision` must be one of float64, float32; got 'float16'."),
        )
    ),
    (Adam, {"betas": (0.9, 1.0)}, "`Adam.betas` must be two numbers in [0, 1); got (0.9, 1.0)."),
    (Adam, {"betas": (0.9,)}, "`Adam.betas` must be a list of a number and a number; got (0.9,)."),
    (AdamW, {"eps": -1.0}, "`AdamW.eps` must be >= 0; got -1.0."),
    (SGD, {"momentum": 1.0}, "`SGD.momentum` must be in [0, 1); got 1.0."),
    (RunConfig, {"steps": 0}, "`RunConfig.steps` must be >= 1; got 0."),
    (RunConfig, {"steps": True}, "`RunConfig.steps` must be a whole number; got True."),
    (RunConfig, {"seed": -1}, "`RunConfig.seed` must be in 0 .. 2^63-1; got -1."),
    (RunConfig, {"seed": 2**63}, "`RunConfig.seed` must be in 0 .. 2^63-1; got 9223372036854775808."),
    (
        RunConfig,
        {"task": Transformer()},
        f"`RunConfig.task` must be one of {TASKS}; got Transformer(",
    ),
    (
        RunConfig,
        {"model": Modular()},
        "must be one of Transformer, Decoder, FeedForward, Recurrent, Logistic; got Modular(",
    ),
    (RunConfig, {"model": FeedForward()}, "`task.encoding` must be operands; got direct."),
    (
        RunConfig,
        {
            "model": FeedForward(init_stream="split"),
            "task": Modular(encoding="operands", split="numpy-shuffle"),
        },
        "`task.split` must be torch-randperm; got numpy-shuffle.",
    ),
    (Save, {"weights": 10}, "`Save.weights` must be a schedule; got 10."),
    (Save, {"weights": "evry(3)"}, "`evry(3)` is no schedule; write every(10), "),
]


@pytest.mark.parametrize(
    ("cls", "values", "message"), REFUSALS, ids=[f"{cls.__name__}-{'-'.join(values)}" for cls, values, _ in REFUSALS]
)
def test_a_value_that_breaks_a_rule_is_named_with_the_rule(cls, values, message):
    cls()  # the defaults keep every rule
    with pytest.raises(ConfigError, match=re.escape(message)):
        cls(**values)


@pytest.mark.parametrize("p", [3, 5, 97, 113])
def test_division_is_admitted_for_primes(p):
    assert Modular(p=p, operation="divide", train_fraction=0.5).p == p


def test_values_at_the_edge_of_a_rule_are_admitted():
    Modular(p=3, train_fraction=0.12, seed=2**32 - 1)
    RunConfig(steps=1, seed=2**63 - 1)
    AdamW(weight_decay=0, warmup_steps=0, betas=(0, 0), eps=0, batch_size=1)
    assert AdamW(batch_size=None).batch_size is None


# --- replace ----------------------------------------------------------------------------------------------------------


def test_replace_takes_dotted_paths_and_leaves_the_rest():
    config = RunConfig()
    changed = config.replace({"task.p": 59, "optimizer.lr": 1, "steps": 7, "save.weights": "every(5) | log(20)"})
    assert changed.task.p == 59
    assert changed.optimizer.lr == 1.0
    assert isinstance(changed.optimizer.lr, float)
    assert changed.save.weights == Every(5) | LogSpaced(20)
    assert changed == dataclasses.replace(
        config,
        task=Modular(p=59),
        optimizer=AdamW(lr=1.0),
        steps=7,
        save=Save(weights=Every(5) | LogSpaced(20)),
    )
    assert config == RunConfig()


def test_replace_checks_the_rules_on_the_result():
    task = {"task.encoding": "operands", "task.p": 53}
    assert RunConfig().replace({"model": FeedForward(), **task}).model == FeedForward()
    assert RunConfig().replace({**task, "model": FeedForward()}).task.p == 53
    with pytest.raises(ConfigError, match=re.escape("`task.encoding` must be operands; got direct.")):
        RunConfig().replace({"model": FeedForward()})
    with pytest.raises(ConfigError, match=re.escape("divide needs a prime p")):
        RunConfig().replace({"task.operation": "divide", "task.p": 100})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"task.q": 3}, "There is no field `task.q` in Modular. "),
        ({"task.train_fracton": 0.5}, "no field `task.train_fracton` in Modular. Did you mean `train_fraction`"),
        ({"step": 3}, "There is no field `step` in RunConfig. Did you mean `steps`"),
        ({"steps.k": 3}, "`steps` has no fields of its own; got `steps.k`."),
        ({"save.weights.k": 3}, "`save.weights` has no fields of its own; got `save.weights.k`."),
        ({"task": Modular(), "task.p": 7}, "`task.p` cannot be changed: its parent is replaced as a whole"),
        ({"task.p": "7"}, "`Modular.p` must be a whole number; got '7'."),
        ({"model.d_mlp": 0}, "`Transformer.d_mlp` must be >= 1; got 0."),
    ],
)
def test_replace_refuses_what_it_cannot_do(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig().replace(overrides)


def test_replace_refuses_a_part_and_its_whole_in_either_order():
    with pytest.raises(ConfigError, match=re.escape("replaced as a whole")):
        RunConfig().replace({"task.p": 7, "task": Modular()})


# --- run_id -----------------------------------------------------------------------------------------------------------


def test_run_id_reads_and_is_a_file_name():
    assert re.fullmatch(r"add113-transformer-seed0-[0-9a-f]{8}", RunConfig().run_id)
    for config in CONFIGS:
        assert re.fullmatch(r"[a-z0-9_]+-(transformer|mlp)-seed\d+-[0-9a-f]{8}", config.run_id)
    assert Modular(operation="x2+xy+y2+x").slug == "x2_xy_y2_x113"


def test_run_id_is_the_same_in_every_process():
    code = "from interp.config import RunConfig; print(RunConfig().run_id)"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert found == {RunConfig().run_id}


@pytest.mark.parametrize(
    "override",
    [
        {"task.p": 59},
        {"task.seed": 1},
        {"seed": 1},
        {"steps": 10_001},
        {"optimizer.eps": 1e-9},
        {"optimizer.loss_precision": "float32"},
        {"model.attention": "bidirectional"},
        {"save.weights": "every(3)"},
        {"log.test": "every(3)"},
    ],
    ids=lambda override: next(iter(override)),
)
def test_run_id_depends_on_every_field(override):
    assert RunConfig().replace(override).run_id != RunConfig().run_id


def test_run_ids_of_a_sweep_are_distinct():
    ids = {RunConfig(seed=seed, task=Modular(p=p)).run_id for seed in range(50) for p in (53, 59, 113)}
    assert len(ids) == 150


def test_a_config_imports_neither_torch_nor_numpy():
    code = "import sys, interp.config; sys.exit(bool({'torch', 'numpy', 'transformer_lens'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", "import torch;" + code], check=False).returncode == 1


# --- schedules --------------------------------------------------------------------------------------------------------

simple = st.one_of(
    st.builds(Every, st.integers(1, 500), st.none() | st.integers(0, 5000)),
    st.builds(LogSpaced, st.integers(2, 300)),
    st.builds(Steps, st.sets(st.integers(0, 5000), max_size=6).map(sorted).map(tuple)),
)
schedules = st.one_of(
    simple,
    st.builds(Dense, st.integers(1, 10**12)),
    st.lists(simple, min_size=2, max_size=3).map(tuple).map(AnyOf),
)
lasts = st.integers(1, 3000)


@QUICK
@given(schedules)
def test_what_a_schedule_writes_is_read_back(schedule):
    assert parse_schedule(str(schedule)) == schedule


@QUICK
@given(simple, lasts)
def test_steps_are_increasing_within_the_run_and_hold_the_last(schedule, last):
    steps = schedule.steps(last)
    assert steps == sorted(set(steps))
    assert steps[-1] == last
    assert steps[0] >= 0


@QUICK
@given(simple, simple, lasts)
def test_a_union_has_the_steps_of_both_and_no_more(one, other, last):
    assert (one | other).steps(last) == sorted({*one.steps(last), *other.steps(last)})
    assert ((one | other) | one).steps(last) == (one | other).steps(last)


@QUICK
@given(st.integers(1, 500), st.none() | st.integers(0, 4000), lasts)
def test_every_is_a_range(k, until, last):
    expected = {step for step in range(0, last + 1, k) if until is None or step <= until} | {last}
    assert Every(k, until=until).steps(last) == sorted(expected)


@QUICK
@given(st.integers(2, 300), lasts)
@example(6, 10)  # 10^(1/5) rounds to 2, whose own logarithm is nearer to that of 10^(2/5), which rounds to 3
def test_log_spaced_is_the_rounded_geometric_progression(n, last):
    expected = {0, 1, last} | {round(last ** (i / (n - 1))) for i in range(n)}
    assert LogSpaced(n).steps(last) == sorted(expected)


@pytest.mark.parametrize(("n", "last"), [(20, 10_000), (50, 10_000), (100, 1_000_000)])
def test_log_spaced_has_about_n_steps(n, last):
    """Small steps coincide; where the first gap is g, those below 1/(g-1) do, so at most that many are lost."""
    ratio = last ** (1 / (n - 1))
    lost = math.log(1 / (ratio - 1)) / math.log(ratio) if ratio < 2 else 0
    schedule = LogSpaced(n)
    count = len({0, last} | {s for i in range(n) if schedule.at(s := round(last ** (i / (n - 1))), last)})
    assert n - lost <= count <= n + 1


@QUICK
@given(st.integers(1, 10**6), st.integers(2, 10**4), lasts)
def test_dense_is_the_densest_that_fits_the_budget(size, affordable, last):
    resolved = Dense(size * affordable).resolve(size, last)
    assert isinstance(resolved, Every)
    count = len(resolved.steps(last))
    assert count * size <= size * affordable
    if resolved.k > 1:  # one step denser would not fit
        assert len(Every(resolved.k - 1).steps(last)) > affordable


def test_dense_must_be_resolved_first():
    with pytest.raises(ConfigError, match=re.escape("must be resolved with the size of one checkpoint")):
        Dense(1000).at(0, 10)
    union = Dense(1000) | Every(7)
    assert union.resolve(100, 90) == Every(10) | Every(7)
    assert Every(3).resolve(1, 1) == Every(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Every(0), "`k` of every(k) must be a whole number of steps >= 1; got 0."),
        (lambda: Every(True), "`k` of every(k) must be a whole number of steps >= 1; got True."),
        (lambda: Every(2.0), "`k` of every(k) must be a whole number of steps >= 1; got 2.0."),
        (lambda: Every(2, until=-1), "`until` of every(k, until) must be a step >= 0 or None; got -1."),
        (lambda: LogSpaced(1), "`n` of log(n) must be a whole number >= 2; got 1."),
        (lambda: Steps((5, 3)), "`steps(...)` must name increasing steps >= 0; got [5, 3]."),
        (lambda: Steps((3, 3)), "`steps(...)` must name increasing steps >= 0; got [3, 3]."),
        (lambda: Steps((-1,)), "`steps(...)` must name increasing steps >= 0; got [-1]."),
        (lambda: Steps((True,)), "`steps(...)` must name increasing steps >= 0; got [True]."),
        (lambda: Dense(0), "`dense(budget)` must be a positive number of bytes; got 0."),
        (lambda: Dense(100).resolve(60, 10), "must hold at least two checkpoints of 60 bytes; got 100."),
        (lambda: AnyOf(()), "A union of schedules must have at least one member; got none."),
    ],
)
def test_schedules_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    "text", ["", "|", "every", "every()", "every(1,2,3)", "log(x)", "dense(1 PB)", "every(1) |", "1.5"]
)
def test_texts_that_are_no_schedule_are_refused(text):
    with pytest.raises(ConfigError, match=re.escape(f"`{text}` is no schedule; write every(10), ")):
        parse_schedule(text)


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("10", Every(10)),
        (" every( 3 ) ", Every(3)),
        ("every(1,until=100)|every(10)", Every(1, until=100) | Every(10)),
        ("every(1, 100)", Every(1, until=100)),
        ("steps()", Steps(())),
        ("dense(2kb)", Dense(2000)),
        ("dense(0.5 GB)", Dense(500_000_000)),
    ],
)
def test_texts_that_are_schedules(text, schedule):
    assert parse_schedule(text) == schedule
    assert isinstance(schedule, Schedule)


@pytest.mark.parametrize("path", ["save.state", "log.train", "log.test"])
def test_a_budget_of_bytes_is_one_for_weights(path):
    with pytest.raises(ConfigError, match=r"must name steps.*; got every\(1000\) \| dense\(1000000\)\."):
        RunConfig().replace({path: "every(1000) | dense(1MB)"})


def test_rules_of_the_whole_hold_after_an_event():
    with pytest.raises(ConfigError, match=r"`optimizer\.loss` must be cross-entropy or exponential for the one logit"):
        RunConfig(events=("step 10: optimizer.loss=exponential",))


def test_codes_have_one_loss():
    with pytest.raises(ConfigError, match=r"`optimizer\.loss` must be left at cross-entropy; got stablemax"):
        RunConfig().replace({"task": Sums(codes=5), "model": FeedForward(), "optimizer.loss": "stablemax"})


@pytest.mark.parametrize("kind", ["torch:_dynamo", "interp:plots", "interp:papers"])
def test_a_kind_imports_nothing_through_a_lazy_module(kind):
    code = (
        "import sys, torch, interp, interp.config; from interp.config import RunConfig\n"
        "from interp.errors import ConfigError\n"
        "data = RunConfig().to_dict()\n"
        f"before, data['task'] = set(sys.modules), {{'kind': {kind!r}}}\n"
        "try:\n    RunConfig.from_dict(data)\nexcept ConfigError:\n    assert set(sys.modules) == before\n"
        "else:\n    raise AssertionError\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_kind_must_be_printable_and_short():
    data = RunConfig().to_dict()
    for kind in ("evil\nline:X", "\x1b[31m:X", "a" * 300 + ":X"):
        with pytest.raises(ConfigError, match="must be `module:Name`, printable and short") as caught:
            RunConfig.from_dict({**data, "task": {"kind": kind}})
        assert len(str(caught.value)) < 200
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["every(3)", "every(4, until=6)", "every(7) | steps(2, 5)", "log(9) | every(2)"])
@pytest.mark.parametrize("last", [1, 6, 12, 28])
def test_the_steps_of_a_schedule_are_those_at_which_it_is(text, last):
    schedule = parse_schedule(text)
    assert schedule.steps(last) == [step for step in range(last + 1) if schedule.at(step, last)]
