"""Commands of the program: one dataclass each, whose fields are the flags and whose call does the work.

Heavy libraries are imported inside the calls, so that `--help` is quick.
"""

import contextlib
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import AvoidSubcommands, Positional, arg

from interp.cli.modules import attribute_of, import_module
from interp.cli.printing import (
    as_csv,
    as_table,
    described,
    in_words,
    last_accuracies,
    origin,
    print_diagnosis,
    print_outcome,
    print_state,
    size_on_disk,
    summarise,
)
from interp.config import RunConfig, recipes
from interp.config.events import AtStep, parse_event
from interp.errors import (
    ConfigError,
    InterpError,
    NotImportedError,
    StoreError,
    error_line,
    printable,
)
from interp.literals import read_value

if TYPE_CHECKING:
    from interp.analysis.keys import GivenKeys
    from interp.trajectory import Trajectory

__all__ = ["COMMANDS", "Train"]

Root = Annotated[Path, arg(help="folder that holds the runs")]
Device = Annotated[str | None, arg(metavar="DEVICE", help="cpu, cuda or cuda:N; not given: CUDA where there is one")]
Keys = Annotated[
    str | None,
    arg(
        metavar="KEY,KEY",
        help="key frequencies to measure with, such as 8,27,28, or irreps of a group, such as standard,sign; not "
        "given: those that the criteria name at the last step",
    ),
]
Unproven = Annotated[bool, arg(help="go on where no stored checkpoint can prove that the steps are those of the run")]
Threads = Annotated[int | None, arg(metavar="INT", help="CPU threads; bit for bit the same only for the same number")]
Run = Positional[
    Annotated[Path, arg(metavar="RUN", help="run folder, such as checkpoints/add59-transformer-seed0-1a2b3c4d")]
]


@dataclass
class Demo:
    """Train a small network until it groks, measure it, and write a report to look at (about a minute)."""

    root: Root = Path("checkpoints")
    device: Device = None
    threads: Threads = None

    def __call__(self) -> None:
        """Train `kitouni-circle`, write the report, and sum the run up."""
        from interp.training.api import train

        config = recipes.get("kitouni-circle")
        print(f"Training {config.run_id}: {recipes.RECIPES['kitouni-circle'].summary}.")
        traj = train(config, root=self.root, device=self.device, progress=True, threads=self.threads)
        summarise(traj)


@dataclass
class Train:
    """Train a recipe and store its trajectory; `interp train RECIPE --help` lists everything that can be changed."""

    config: Annotated[AvoidSubcommands[RunConfig], arg(name="")]
    root: Root = Path("checkpoints")
    device: Device = None
    threads: Threads = None
    existing: Annotated[
        Literal["resume", "overwrite", "error"], arg(help="what to do if a run with this config is there already")
    ] = "resume"
    init_from: Annotated[
        str | None,
        arg(metavar="RUN[@STEP]", help="begin with the weights of another run's step, its last if none is given"),
    ] = None

    def __call__(self) -> None:
        """Train and print the outcome."""
        from interp.training.api import train

        source = None if self.init_from is None else _run_at_step(self.init_from)
        config = self.config
        if source is not None:
            from interp.training.origins import begun_with

            config, _ = begun_with(config, source)
        folder = self.root / config.run_id
        if self.existing == "resume" and (folder / "run.json").exists():
            print_state(folder)
        else:
            print(f"Training {folder}: {described(config)}")
            for event in map(parse_event, self.config.events):
                if isinstance(event.when, AtStep) and event.when.step >= self.config.steps:
                    print(f"Note: `{event}` changes nothing, since the last step is {self.config.steps}")
        traj = train(
            self.config,
            root=self.root,
            device=self.device,
            progress=True,
            threads=self.threads,
            existing=self.existing,
            init_from=source,
        )
        print_outcome(traj)
        print(f"Report:    interp report {traj.folder}")
        print_diagnosis(traj)


@dataclass
class Resume:
    """Continue an unfinished run; the weights come out bit for bit as if it had never stopped."""

    run: Run
    device: Device = None
    threads: Threads = None
    unproven: Unproven = False

    def __call__(self) -> None:
        """Resume and print the outcome."""
        from interp.training.api import resume

        print_state(self.run)
        traj = resume(self.run, device=self.device, progress=True, threads=self.threads, unproven=self.unproven)
        print_outcome(traj)


@dataclass
class Replay:
    """Run a stretch again and store every step of it: a microscope for the moment of grokking."""

    run: Run
    start: Annotated[int, arg(name="from", help="first step to store")]
    stop: Annotated[int, arg(name="to", help="last step to store")]
    every: Annotated[int, arg(help="store every so many steps")] = 1
    device: Device = None
    threads: Threads = None
    unproven: Unproven = False

    def __call__(self) -> None:
        """Replay, and print at how many checkpoints equality was proven."""
        from interp.training.api import replay
        from interp.trajectory import load

        zoom = replay(
            load(self.run),
            self.start,
            self.stop,
            self.every,
            device=self.device,
            progress=True,
            threads=self.threads,
            unproven=self.unproven,
        )
        proven = zoom.run["replay"]["proven"]
        print(f"Replay:    {zoom.folder}")
        print(f"Stored:    {len(zoom.steps)} steps, {zoom.steps[0]} to {zoom.steps[-1]}")
        at = "its only checkpoint" if len(proven) == 1 else f"all {len(proven)} of its checkpoints"
        equal = f"bitwise equal to the run at {at} in this stretch"
        print(f"Proven:    {equal if proven else 'no step, since the run has no checkpoint in this stretch'}")
        print(f"Report:    interp report {zoom.folder}")


@dataclass
class Branch:
    """Let a run go another way from a step on: a new run that shares the parent's bits up to there.

    For example: interp branch RUN --step 9000 optimizer.weight_decay=0, or task.train_fraction=0.2 for fewer pairs.
    What is in force at that step stays unless it is changed; shapes of parameters and the kind of optimiser must stay.
    """

    run: Run
    changes: Positional[
        Annotated[
            tuple[str, ...],
            arg(metavar="[FIELD=VALUE ...]", help="fields of the config that change; none: the branch is the parent"),
        ]
    ] = ()
    step: Annotated[int | None, arg(metavar="INT", help="step of the fork; must be given")] = None
    steps: Annotated[
        int | None, arg(metavar="INT", help="last step, counted as the parent's; the parent's if not given")
    ] = None
    root: Annotated[Path | None, arg(help="folder that holds the branch; that of the parent if not given")] = None
    device: Device = None
    threads: Threads = None
    existing: Annotated[Literal["resume", "overwrite", "error"], arg(help="what to do if it is there already")] = (
        "resume"
    )
    unproven: Unproven = False

    def __call__(self) -> None:
        """Branch, and print the proof of the fork and the outcome."""
        from interp.training.api import branch
        from interp.trajectory import load

        if self.step is None:
            raise ConfigError("`--step` must name the step of the fork, as in `interp branch RUN --step 9000`.")
        changes: dict[str, Any] = {}
        for words in self.changes:
            name, equals, value = words.partition("=")
            if not (name and equals):
                raise ConfigError(f"A change must be FIELD=VALUE, such as optimizer.weight_decay=0; got {words}.")
            changes[name.replace("-", "_")] = read_value(value)
        traj = branch(
            load(self.run),
            self.step,
            changes,
            self.steps,
            root=self.root,
            device=self.device,
            progress=True,
            existing=self.existing,
            threads=self.threads,
            unproven=self.unproven,
        )
        origin, proven = traj.run["origin"], traj.run["origin"]["proven"]
        how = f"computed again from step {first}" if (first := origin["from_state"]) < self.step else "as stored"
        print(f"Branch:    of {self.run} at step {self.step}, whose full state is {how}")
        at = f"{len(proven)} of the parent's checkpoints, the last of step {proven[-1]}" if proven else ""
        print(f"Proven:    {f'bitwise equal to {at}' if at else 'by nothing: the parent has no checkpoint there'}")
        print_outcome(traj)
        print(f"Report:    interp report {traj.folder}")


@dataclass
class Import:
    """Turn other people's checkpoints into a run: TransformerLens, Nanda et al., pizza, simple-grokking, rep-theory.

    PATH is a file (torch.save, safetensors, .npz, Lightning's .ckpt), a folder with a file per checkpoint (300.pt,
    epoch_300.safetensors, epoch=4-step=500.ckpt) or with a folder per checkpoint (checkpoint-500/, NAME:v3/). Prefixes
    of wrappers and second names of a parameter are taken off, logs and configurations beside the files are compared,
    and each choice is printed. No file is trusted: no code in it runs.
    """

    path: Positional[Annotated[Path, arg(help="a file of checkpoints, or a folder with a file or folder for each")]]
    into: Annotated[Path, arg(help="folder that holds the runs")] = Path("checkpoints")
    format: Annotated[
        str | None, arg(metavar="FORMAT", help="refuse every format but this one; recognised if not given")
    ] = None
    assume: Annotated[
        tuple[str, ...], arg(help="facts that the files do not state, such as task.operation=multiply steps=indices")
    ] = ()
    set: Annotated[
        tuple[str, ...], arg(metavar="FIELD=VALUE", help="the same for the config, such as model.activation=gelu")
    ] = ()
    steps: Annotated[
        str | None,
        arg(metavar="N,N,...", help="updates that the checkpoints have seen, in order, where the files do not say"),
    ] = None
    model: Annotated[
        str | None,
        arg(
            metavar="MODULE:NET",
            help="a network of your own that the files are state dicts of, by a class or function without arguments: "
            "the module is imported, and each checkpoint loaded into it, strictly; --names are as in interp.record",
        ),
    ] = None
    task: Annotated[
        str | None,
        arg(
            metavar="MODULE:TASK",
            help="with --model, its inputs, answers and split, such as an interp.tasks.table; or --set task.p=97 "
            "task.operation=add; without either, weights alone are measured",
        ),
    ] = None
    forward: Annotated[
        str | None, arg(metavar="MODULE:FUNCTION", help="with --model, the function (model, tokens) that gives logits")
    ] = None
    neurons: Annotated[
        str, arg(metavar="PATH", help="with --model, the last hidden layer, such as blocks.0.mlp.act, or head:input")
    ] = ""
    names: Annotated[
        Path | None,
        arg(
            metavar="MAP.json",
            help='parameters by the names in the file, for a network of your own: {"tok.weight": "embed.W_E", '
            '"head.weight": ["unembed.W_U", "T"], "scale": null}; T transposes, null leaves out',
        ),
    ] = None
    as_: Annotated[
        str | None,
        arg(name="as", metavar="MODEL", help="read the weights as transformer, mlp, decoder or recurrent"),
    ] = None
    dry_run: Annotated[bool, arg(help="say what would be done, and why; write nothing")] = False

    def __call__(self) -> None:
        """Import, and print what was found, assumed and proven."""
        from interp.importers import import_checkpoints, plan_import

        if self.format is not None and self.as_ is not None:
            raise ConfigError("`--as` says the model and `--format` the layout of the files: give one of them.")
        if self.model is not None and (self.as_ or self.format):
            raise ConfigError("`--model` is a network of your own: leave out `--as` and `--format`.")
        assume: dict[str, Any] = {}
        for flag, words in [*(("--assume", one) for one in self.assume), *(("--set", one) for one in self.set)]:
            name, equals, value = words.partition("=")
            if not equals:
                raise ConfigError(f"`{flag}` must be FIELD=VALUE, such as task.operation=multiply; got {words}.")
            assume[name] = read_value(value)
        options: dict[str, Any] = {
            "format": self.format or self.as_,
            "assume": assume,
            "steps": None if self.steps is None else _whole_numbers("--steps", self.steps),
            "names": None if self.names is None else _json_object("--names", self.names),
            "model": _made("--model", self.model),
            "task": _made("--task", self.task),
            "forward": _imported("--forward", self.forward),
            "neurons": self.neurons,
        }
        if self.dry_run:
            plan = plan_import(self.path, **options)
            found, config, steps = plan.found, plan.config, plan.steps
            print("Nothing is written; without --dry-run the import would be:")
        else:
            traj = import_checkpoints(self.path, self.into, **options, progress=True)
            found = traj.run["import"] if self.model is None else traj.run["record"]["files"]
            config, steps = traj.config, tuple(map(int, traj.steps))
            print(f"Run:       {traj.folder}")
        print(f"Format:    {found['format']}")
        if self.model is None:
            print(f"Operation: {config.task.operation}, {found['operation']}")
            print(f"Split:     {found['split_origin']}")
        else:
            print(f"Task:      {found['task']}")
        shown = ", ".join(map(str, steps[:8]))
        print(f"{found.get('counts', 'steps').capitalize() + ':':10} {shown}{', ...' if len(steps) > 8 else ''}")
        for line in found.get("said", ()):
            print(f"Noted:     {line}")
        print(f"Assumed:   {', '.join(found['assumed']) or 'nothing'}")
        if self.model is None:
            print(f"Proof:     {found['proof']['verdict']}")
        if not self.dry_run:
            print(f"On disk:   {size_on_disk(traj)}")
            print(f"Report:    interp report {traj.folder}")


@dataclass
class Measure:
    """Compute measures over all checkpoints and print them, or write them to a file."""

    run: Positional[Annotated[Path | None, arg(metavar="[RUN]", help="run folder; not needed with --list")]] = None
    names: Positional[
        Annotated[
            tuple[str, ...],
            arg(
                metavar="[MEASURE ...]",
                help="names of measures, or MODULE:NAME of your own; none: all that are not costly",
            ),
        ]
    ] = ()
    output: Annotated[
        Path | None, arg(metavar="FILE", help="write a .csv (measures over step only) or .nc (all) file")
    ] = None
    keys: Keys = None
    list: Annotated[bool, arg(help="list the measures and what they mean")] = False

    def __call__(self) -> None:
        """Measure and print or write."""
        from interp.analysis.catalogue import MEASURES
        from interp.analysis.measures import measure
        from interp.store.opening import write_file
        from interp.trajectory import load

        if self.list:
            for name, item in MEASURES.items():
                opt_in = " (takes long: by name only)" if item.opt_in else ""
                requires = f"; needs {', '.join(item.requirement_names)}" if item.requires else ""
                print(f"{name:36} {'[' + ', '.join(item.named_dims) + ']':26} {item.meaning}{requires}{opt_in}")
            return
        if self.run is None:
            raise ConfigError(
                "`run` must be a run folder, as in `interp measure RUN`; `interp measure --list` lists the measures."
            )
        _require_writable(self.output, ".csv", ".nc")
        traj = load(self.run)
        names = [attribute_of(name) if ":" in name else name for name in self.names]
        over_step = [name for name in names if name not in MEASURES or MEASURES[name].dims == ("step",)]
        no_rows = ConfigError("A .csv file holds measures over step only, and none of these is one; write a .nc file.")
        if self.output and self.output.suffix == ".csv" and names and not over_step:
            raise no_rows
        data = measure(traj, names or None, keys=_key_set(self.keys), progress=True)
        over_step = [str(name) for name in data.data_vars if data[name].dims == ("step",)]
        if self.output and self.output.suffix == ".csv" and not over_step:
            raise no_rows
        others = [f"{name} {list(data[name].dims)}" for name in data.data_vars if name not in over_step]
        if self.output is None:
            if over_step:
                print(data[over_step].to_dataframe().to_string(max_rows=20))
        elif self.output.suffix == ".csv":
            write_file(self.output, as_csv(data[over_step].to_dataframe()))
        else:
            write_file(self.output, bytes(data.to_netcdf(engine="scipy")))
        if self.output:
            print(f"Written:   {self.output}")
        if self.keys is not None and (irreps := data.attrs.get("key_irreps") or data.attrs.get("key_frequencies")):
            listed = irreps if isinstance(irreps, str) else ", ".join(map(str, irreps))
            print(f"Keys:      {listed}, given")
        if not self.names and data.attrs.get("key_frequencies") == []:
            keyed = sum(item.needs("key frequencies") for item in MEASURES.values())
            print(f"Left out:  {keyed} measures of key frequencies, of which none stands out at the last step")
        if others and not (self.output and self.output.suffix == ".nc"):
            print(f"With more axes (write them with --output FILE.nc): {', '.join(others)}")


@dataclass
class Compare:
    """Put runs side by side: what differs, when each memorised and generalised, and what foretold it."""

    runs: Positional[Annotated[tuple[Path, ...], arg(help="run folders, two or more")]] = ()
    until: Annotated[
        int | None, arg(help="score what can be seen up to this early step: does it tell which runs generalise later?")
    ] = None
    output: Annotated[Path | None, arg(help="write a .csv file, a row for each run")] = None

    def __call__(self) -> None:
        """Compare, print the tables, and write the file."""
        from interp.milestones.comparison import compare, predictors
        from interp.store.opening import write_file
        from interp.trajectory import load

        _require_writable(self.output, ".csv")
        trajs = [load(run) for run in self.runs]
        data = compare(trajs)
        early = None if self.until is None else predictors(trajs, until=self.until)
        table = data.drop_dims("quantile").to_dataframe()
        differ = data.attrs["differ"]
        held = f"held for {data.attrs['hold']} more evaluations"
        levels = (
            f"memorised: train accuracy {data.attrs['train_threshold']:.0%}, generalised: test accuracy "
            f"{data.attrs['test_threshold']:.0%}, each {held}"
        )
        what = ["seed", "task", "model", *(name for name in differ if not name.startswith(("save.", "log.")))]
        last = list(table.columns[table.columns.get_loc("key_frequencies") :])
        when = [name for name in table.columns if name not in what + differ + last and not name.endswith("_censored")]
        for heading, columns in (("Runs", what), (f"Steps ({levels})", when), ("At the last stored step", last)):
            print(f"{heading}\n{as_table(table[columns])}\n")
        print(f"Generalised: {data.attrs['generalised']} of {len(trajs)} runs")
        for share in data["quantile"].values:
            at = data.sel(quantile=share)
            step, low, high = (float(at[f"steps_to_generalise{side}"]) for side in ("", "_lower", "_upper"))
            within = f" (95 % interval {in_words(low)} to {in_words(high)})" if low < float("inf") else ""
            print(f"{share:.0%} of runs by step {in_words(step)}{within}")
        if early is not None:
            print(f"\nUp to step {self.until}: does it tell which of {early.sizes['run']} runs generalise later?")
            if early.attrs["left_out"]:
                print(f"Left out, since they had by then: {', '.join(early.attrs['left_out'])}")
            if early.attrs["undefined"]:
                print(early.attrs["undefined"])
            scores = early.drop_dims("run").to_dataframe()
            scores["median_lead_time"] = early["lead_time"].to_pandas().median()
            if scores.notna().any(axis=None):
                print(as_table(scores))
            values = early["value"].to_pandas().add_suffix(f"_at_{self.until}")
            print(f"\nAt step {self.until}\n{as_table(values)}")
            table = table.join(values)
        if self.output:
            write_file(self.output, as_csv(table))
            print(f"Written:   {self.output}")


@dataclass
class Sweep:
    """Train a grid of runs, as many at a time as there are cores, and say when each memorised and generalised.

    What is complete is not trained again and what is partial goes on, so that a sweep which was killed is continued by
    the same command: interp sweep kitouni-circle seed=0..4 task.train_fraction=0.4,0.5 "optimizer.lr=log(1e-4,1e-2,3)"
    """

    recipe: Positional[Annotated[str, arg(help="named run that the grid changes; `interp recipes` lists them")]]
    grid: Positional[
        Annotated[
            tuple[str, ...], arg(help="FIELD=VALUE,VALUE, FIELD=0..4 or FIELD=log(1e-4,1e-2,5), one for each axis")
        ]
    ]
    root: Root = Path("checkpoints")
    workers: Annotated[int | None, arg(help="processes at a time; one for each CPU core if not given")] = None
    together: Annotated[int, arg(help="runs of equal shape in one batched step; pays for small models")] = 1
    device: Device = None
    threads: Annotated[int | None, arg(help="CPU threads of each worker; the cores divided by the workers")] = None
    dask: Annotated[str | None, arg(help="address of a Dask scheduler, or its scheduler file (extra `dask`)")] = None
    slurm: Annotated[Path | None, arg(help="submit a SLURM array; folder for its scripts and logs (extra `slurm`)")] = (
        None
    )
    slurm_option: Annotated[
        tuple[str, ...], arg(help="of submitit: timeout_min=60 mem_gb=2 slurm_partition=short ...")
    ] = ()
    output: Annotated[Path | None, arg(help="write the runs as a .csv file, or a figure of them as a .html file")] = (
        None
    )

    def __call__(self) -> None:
        """Train the grid, print the table, and write the file."""
        from interp.execution.executors import dask_executor, slurm_executor
        from interp.execution.sweeps import parse_grid, sweep
        from interp.plots import phase_diagram, steps_against
        from interp.store.opening import write_file

        _require_writable(self.output, ".csv", ".html")
        recipes.get(self.recipe)  # a wrong name is known before the libraries are loaded
        grid = parse_grid(self.grid)
        wide = [name for name, values in grid.items() if len(values) > 1 and name != "seed"]
        if self.output and self.output.suffix == ".html" and len(wide) > 2:
            raise ConfigError(f"A figure has two axes besides the seed at most; the grid has {', '.join(wide)}.")
        if self.dask and self.slurm:
            raise ConfigError("A sweep runs on one cluster: give `--dask` or `--slurm`, not both.")
        wrong = [option for option in self.slurm_option if "=" not in option]
        if wrong:
            raise ConfigError(f"`--slurm-option` must be NAME=VALUE, as timeout_min=60; got {wrong[0]}.")
        options = dict(option.split("=", 1) for option in self.slurm_option)
        with contextlib.ExitStack() as stack:
            executor = None
            if self.dask:
                executor = stack.enter_context(dask_executor(self.dask))
            elif self.slurm:
                settings = {name: read_value(value) for name, value in options.items()}
                executor = stack.enter_context(slurm_executor(self.slurm, **settings))
            done = sweep(
                self.recipe,
                grid,
                root=self.root,
                executor=executor,
                workers=self.workers,
                together=self.together,
                device=self.device,
                threads=self.threads,
                progress=True,
            )
        table, results = done.to_dataframe(), done.results()
        shown = ["run", "memorised_step", "generalised_step", "delay", "test_accuracy", "learning_phase"]
        asked = results.attrs
        print(
            f"Memorised: train accuracy {asked['train_threshold']:.0%}, generalised: test accuracy "
            f"{asked['test_threshold']:.0%}, each held for {asked['hold']} more evaluations"
        )
        print(as_table(table[[*done.axes, *shown]]))
        for run_id, why in done.failures.items():
            print(f"failed: {run_id}: {why}")
        if self.output and self.output.suffix == ".csv":
            write_file(self.output, as_csv(table, index=False))
        elif self.output:
            if not wide:
                results = results.expand_dims(recipe=[self.recipe])
            fig = phase_diagram(results, *wide) if len(wide) == 2 else steps_against(results, (*wide, "recipe")[0])
            write_file(self.output, fig.to_html())
        if self.output:
            print(f"Written:   {self.output}")
        if done.failures:
            sys.exit(1)


@dataclass
class Reproduce:
    """Regenerate figures of the papers and test their claims: `interp reproduce K4`, or with no label the list of all.

    Finished runs are used as they are; after Ctrl-C the same command resumes.
    """

    labels: Positional[Annotated[tuple[str, ...], arg(help="figures: K1, H2, A5, B8, ...; `all` for every one")]] = ()
    preset: Annotated[
        Literal["toy", "laptop", "paper"],
        arg(help="toy: seconds; laptop: two CPU cores, minutes; paper: the published sizes"),
    ] = "laptop"
    root: Root = Path("checkpoints")
    workers: Annotated[int | None, arg(help="processes; one for each CPU core if not given")] = None
    again: Annotated[bool, arg(help="compute the results again, even if the runs have not changed")] = False
    table: Annotated[
        Path | None, arg(help="write every stored reproduction into this file, REPRODUCTIONS.md, with pictures")
    ] = None

    def __call__(self) -> None:
        """Reproduce one figure after the other and print its verdicts."""
        from interp.papers.kit.running import figures, reproduce, stored
        from interp.papers.kit.table import counts, draw, finished_recipes, table
        from interp.store.opening import write_file

        if not self.labels and self.table is None:
            paper = ""
            for label, figure in figures().items():
                if figure.paper != paper:
                    paper = figure.paper
                    print(f"\n{paper}")
                minutes = figure.minutes.get("laptop")
                print(f"{label:4} {figure.title}" + ("" if minutes is None else f" (about {minutes:g} min)"))
            return
        verdicts: list[Any] = []
        for label in tuple(figures()) if "all" in self.labels else self.labels:
            one = reproduce(
                label, preset=self.preset, root=self.root, workers=self.workers, again=self.again, progress=True
            )
            verdicts += one.verdicts
            print(f"\n{label}  {one.figure.title}  [{self.preset}, {one.about['seconds']:.0f} s]")
            for verdict in one.verdicts:
                why = f" ({verdict.reason})" if verdict.reason else ""
                print(f"  {verdict.verdict + ':':20} {verdict.text}")
                print(f"{'':23}measured {verdict.measured:.4g}, expected {verdict.expected}{why}")
            print(f"  {one.folder / 'figure.html'}", flush=True)
        if verdicts:
            print(f"\n{counts(verdicts)}")
        if self.table is not None:
            found, pictures = stored(self.root), Path("notebooks/images/reproductions")
            draw(found, self.table.parent / pictures)
            text = table(found, str(pictures), finished_recipes(self.root))
            write_file(self.table, text)
            print(f"{self.table}: {len(found)} figures")


@dataclass
class Diagnose:
    """Say why a run does not grok: what stands in the way, each with its number and threshold, and what to try.

    Looked at are steps, weight decay times learning rate times steps against recorded runs, the training fraction,
    operands that are in no training pair, softmax collapse, dead neurons, spikes, and numbers that are not finite.
    """

    run: Run

    def __call__(self) -> None:
        """Print the outcome and the findings, causes first."""
        from interp.milestones import diagnose
        from interp.trajectory import load

        print(diagnose(load(self.run)))


@dataclass
class Explain:
    """Explain runs: the algorithm that each has learned, tested sentence by sentence, and an accuracy that is proved.

    Of several runs it says what their algorithms have in common. Explained are networks of one hidden layer whose
    operation is a sum, a product modulo a prime, or that of a finite group; of others it says why not.
    """

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN", help="run folders; two or more are compared")]]
    step: Annotated[int | None, arg(metavar="INT", help="stored step; the last one if not given")] = None
    rank: Annotated[
        Literal[2, 4, 6], arg(help="directions per cluster of the certificate: more prove and cost more")
    ] = 4
    timeline: Annotated[bool, arg(help="date each part: the account at up to 100 steps, for a minute or so")] = True
    output: Annotated[
        Path | None,
        arg(
            metavar="FOLDER",
            help="write explanation.json, index.html and the account; of several, one folder each and a comparison",
        ),
    ] = None
    verify: Annotated[
        Path | None,
        arg(
            metavar="FOLDER", help="prove the certificate of a saved explanation again, from weights and account alone"
        ),
    ] = None

    def __call__(self) -> None:
        """Explain each run and print it; then print what several have in common."""
        from interp.explanation import compare_explanations, explain
        from interp.explanation.universality import comparison_lines, save_comparison
        from interp.trajectory import load

        if self.output is not None and self.output.exists() and not self.output.is_dir():
            raise ConfigError(f"`--output` must be a folder; {self.output} is none.")
        if not self.runs and self.verify is not None:
            raise ConfigError(
                f"`--verify` needs the run that was explained, too: interp explain RUN --verify {self.verify}"
            )
        if not self.runs:
            raise ConfigError("Name one or more run folders, such as checkpoints/add59-transformer-seed0-1a2b3c4d.")
        if self.verify is not None:
            self._verify(self.verify)
            return
        trajs = [load(run) for run in self.runs]  # a wrong one is known before the others are explained
        if len({traj.folder.name for traj in trajs}) < len(trajs):
            raise ConfigError("Runs that are compared need folders of different names.")
        found = []
        for run in trajs:
            one = explain(run, self.step, rank=self.rank, timeline=self.timeline, progress=True)
            print("\n".join(one.lines()), flush=True)
            if self.output is not None:
                folder = self.output if len(self.runs) == 1 else self.output / one.run
                print(f"Written:   {one.save(folder)}")
            print()
            found.append(one)
        if len(found) > 1:
            together = compare_explanations(found)
            print("\n".join(comparison_lines(together)))
            if self.output is not None:
                print(f"Written:   {save_comparison(together, self.output)}")

    def _verify(self, folder: Path) -> None:
        """Print what a saved explanation claims and what follows; exit 1 where less does."""
        from interp.explanation import verify_explanation
        from interp.trajectory import load

        if len(self.runs) > 1:
            raise ConfigError(f"`--verify` takes the run that was explained; got {len(self.runs)} runs.")
        found = verify_explanation(folder, load(self.runs[0]))
        print(found)
        if not found.confirmed:
            sys.exit(1)


@dataclass
class Report:
    """Write one self-contained HTML file about a run: curves, circle, spectra, one slider through all checkpoints."""

    run: Run
    output: Annotated[Path | None, arg(metavar="FILE", help="file to write; RUN/report.html if not given")] = None
    panels: Annotated[
        tuple[str, ...],
        arg(
            metavar="PANEL",
            help="further panels. explain: the account of the last step with its sentences, births, certified margins, "
            "attention and ablated heads; or one of these: sentences, births, margins, attention, head-ablations. "
            "It takes a minute the first time at p = 59, several at p = 113, and up to 8 MB more. MODULE:PANEL: one of "
            "your own, from a module given by --import",
        ),
    ] = ()
    keys: Keys = None

    def __call__(self) -> None:
        """Measure, write the report, and print where it is."""
        from interp.trajectory import load

        _require_writable(self.output, ".html", ".htm")
        panels = [attribute_of(name) if ":" in name else name for name in self.panels]
        summarise(load(self.run), self.output, panels, _key_set(self.keys))


@dataclass
class Export:
    """Write a run as a folder for others: for a model hub, or as TransformerLens state dicts. No network is used.

    hub: model.safetensors and config.json (the last step), a card, all checkpoints and states, measures, the report and
    digests; `interp.load` and every command open the folder again, and `safetensors` reads its arrays. lens: a
    HookedTransformer state dict per step. Upload with the hub's own tool.
    """

    run: Run
    folder: Positional[Annotated[Path, arg(metavar="FOLDER", help="folder to write; must not exist, or be empty")]]
    format: Annotated[Literal["hub", "lens"], arg(help="hub: for a model hub; lens: TransformerLens state dicts")] = (
        "hub"
    )
    license: Annotated[str | None, arg(metavar="ID", help="license for the card, such as mit or cc-by-4.0")] = None
    keys: Keys = None

    def __call__(self) -> None:
        """Export, and print where it is and how to check it."""
        from interp.reporting.publishing import export
        from interp.trajectory import load

        keys = _key_set(self.keys)
        folder = export(load(self.run), self.folder, format=self.format, license=self.license, keys=keys, progress=True)
        files = [path for path in folder.rglob("*") if path.is_file()]
        print(f"Written:   {folder}, {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:,.1f} MB")
        print(f"Check:     cd {folder} && sha256sum -c SHA256SUMS")
        if self.format == "hub":
            print(f"Open:      interp report {folder}, or interp.load({str(folder)!r})")


@dataclass
class Verify:
    """Check every byte of a run against its digests, and that a complete run has lost nothing.

    With --deep, updates are made again from some of its full states and compared with what is stored after them.
    """

    run: Run
    deep: Annotated[int, arg(help="number of full states, drawn at random, whose next updates are made again")] = 0
    device: Device = None
    threads: Threads = None

    def __call__(self) -> None:
        """Print the verdict; exit 1 where something is damaged or does not follow."""
        from interp.store import RunReader
        from interp.trajectory import Trajectory

        try:
            run: Trajectory | RunReader = Trajectory(self.run)
        except StoreError:  # of another version: its bytes can be checked nevertheless
            run = RunReader(self.run)
        report = run.verify()
        print(report)
        follows = True
        if self.deep:
            from interp.training import verify_updates

            updates = verify_updates(self.run, self.deep, device=self.device, threads=self.threads, progress=True)
            print(updates)
            follows = not updates.errors
        if not (report.ok and follows):
            sys.exit(1)


@dataclass
class List:
    """List the runs in a folder: from which recipe, what was changed, and how each ended."""

    root: Positional[Root] = Path("checkpoints")

    def __call__(self) -> None:
        """Print two lines per run."""
        from interp.trajectory import find_runs, load

        if not self.root.is_dir():
            raise ConfigError(f"`root` must be a folder that holds runs; {self.root} is none.")
        runs = find_runs(self.root)
        if not runs:
            is_run = (self.root / "run.json").is_file()
            print(f"{self.root} is a run." if is_run else f"No runs in {self.root}. `interp demo` makes one.")
        width = max((len(run.name) for run in runs), default=0)
        for run in runs:
            try:
                rows = self._rows(run, load(run))
            except InterpError as error:
                cause = error.__cause__
                needs = f"needs --import {cause.module}" if isinstance(cause, NotImportedError) else None
                rows = [needs or f"unreadable: {error}"]
            for name, row in zip([run.name, *[""] * len(rows)], rows):
                print(printable(f"{name:{width}}  {row}"))

    def _rows(self, run: Path, traj: "Trajectory") -> list[str]:
        """Size, outcome and state of a run, and its origin."""
        last = int(traj.steps[-1]) if len(traj.steps) else 0
        going_on = "" if traj.kind.no_continuation else f", continue with: interp resume {run}"
        state = "complete" if traj.complete else f"at step {last}{going_on}"
        if traj.diverged is not None:
            state = f"diverged at step {traj.diverged}"
        if traj.problems:
            state = f"damaged: interp verify {run}"
        size = f"{len(traj.steps):6} checkpoints  {traj.size_in_bytes / 1e6:6.0f} MB"
        return [f"{size}  {last_accuracies(traj):24}  {state}", origin(traj)]


@dataclass
class Recipes:
    """List the recipes: named runs of the literature, and where their values come from."""

    def __call__(self) -> None:
        """Print a paragraph per recipe."""
        import textwrap

        for name, recipe in recipes.RECIPES.items():
            print(f"{name}\n{textwrap.indent(textwrap.fill(recipe.summary, 96), '    ')}")
            print(textwrap.indent(textwrap.fill(recipe.source, 96), "    "), end="\n\n")


COMMANDS: Mapping[str, Any] = MappingProxyType(
    {
        "demo": Demo,
        "train": Train,
        "resume": Resume,
        "replay": Replay,
        "branch": Branch,
        "import": Import,
        "measure": Measure,
        "compare": Compare,
        "diagnose": Diagnose,
        "explain": Explain,
        "sweep": Sweep,
        "reproduce": Reproduce,
        "report": Report,
        "export": Export,
        "verify": Verify,
        "list": List,
        "recipes": Recipes,
    }
)
"""Classes of the commands, by the words that call them."""


def _json_object(flag: str, path: Path) -> dict[str, Any]:
    """The object in a file of JSON."""
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"`{flag}` must be a file of JSON; {path}: {error_line(error)}.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"`{flag}` must hold an object of JSON; {path} holds a {type(found).__name__}.")
    return found


def _whole_numbers(flag: str, text: str) -> list[int]:
    """Whole numbers, separated by commas."""
    try:
        return [int(word) for word in text.replace(" ", "").split(",") if word]
    except ValueError:
        raise ConfigError(f"`{flag}` must be whole numbers with commas, such as 0,500,1000; got {text}.") from None


def _imported(flag: str, name: str | None) -> Any:
    """Value that a flag names as MODULE:NAME, whose module it imports; None where the flag is not given."""
    if name is None:
        return None
    module, colon, attribute = name.partition(":")
    if not (colon and attribute):
        raise ConfigError(f"`{flag}` must be MODULE:NAME, such as my_module:MyNet; got {name}.")
    import_module(flag, module)
    return attribute_of(name)


def _made(flag: str, name: str | None) -> Any:
    """Value that a flag names as MODULE:NAME; a class or function is called without arguments."""
    found = _imported(flag, name)
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return found
    try:
        return found()
    except Exception as error:  # whatever a user's code does
        reason = f"{type(error).__name__}: {error_line(error)}"
        raise ConfigError(
            f"`{flag}` {name} must be made without arguments; it raised {reason}. Name a function that makes it."
        ) from error


def _run_at_step(words: str) -> tuple[str, int | None]:
    """Run and step of RUN or RUN@STEP."""
    run, at, step = words.rpartition("@")
    if not at or not step.isdecimal():
        return words, None
    return run, int(step)


def _key_set(words: str | None) -> "GivenKeys | None":
    """Keys of `--keys`: frequencies as numbers, irreps by name; commas within parentheses are part of a name."""
    if words is None:
        return None
    keys = [key.strip() for key in re.split(r",(?![^(]*\))", words)]
    return [int(key) for key in keys] if all(key.isdecimal() for key in keys) else keys


def _require_writable(path: Path | None, *endings: str) -> None:
    """Refuse an output that could not be written, before anything is computed."""
    if path and path.suffix not in endings:
        raise ConfigError(f"`--output` must end in {' or '.join(endings)}; got {path}.")
    if path and not path.parent.is_dir():
        raise ConfigError(f"`--output` must lie in a folder that exists; {path.parent} is none.")
