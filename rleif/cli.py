"""The command line: `rleif {evolve,label,sft,irm,prm,ppo,eval,run,report}`.

Exit codes: 0 done; 1 a fault of ours (with traceback); 2 a mistake in the call, the configuration or the data, told in
one paragraph; 130 stopped by Ctrl-C.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rleif.pipeline.lock import locked
from rleif.pipeline.runner import ChildFailedError
from rleif.pipeline.stages import STAGES, Stage, load_name
from rleif.settings import SettingsError, check_names, load_yaml, override

USAGE = """usage: rleif COMMAND [--config file.yaml] [--flag value ...] [--debug]

  run      all stages of one configuration:  rleif run config.yaml [--dry-run] [--section.key value ...]
  report   results.json, figures and report.md of a run:  rleif report runs/gsm8k

one stage, files to files:
  evolve   seeds to an evolved pool, with rejections and lineage
  label    label {answers,samples,ranks,steps}: solutions for SFT, ranked lists for the IRM, judged steps for the PRM
  sft      fine-tune a policy on solutions
  irm      train an instruction reward model on ranked lists
  prm      train a process reward model on judged steps
  ppo      PPO on IRM x PRM
  eval     pass@1, pass@k, maj@k, best-of-N of one or more checkpoints

`rleif sft --help` lists the flags of a stage; each is also a key of its YAML file. On several processes:
accelerate launch -m rleif ppo --config ppo.yaml"""

LABEL_USAGE = """usage: rleif label {answers,samples,ranks,steps} [--config file.yaml] [--flag value ...]

  answers  a solution of every problem of the pool, for SFT
  samples  solutions that a checkpoint writes
  ranks    ranked lists of problems, for the IRM
  steps    solutions judged step by step, for the PRM

`rleif label ranks --help` lists the flags of one."""

REPORT_USAGE = """usage: rleif report RUN_DIRECTORY

Writes results.json, figures/*.png and report.md of a run, finished or not, and prints the table."""

RUN_USAGE = """usage: rleif run config.yaml [--section.key value ...] [options]

  --dry-run             check the configuration and print the plan: stages, rows, optimizer steps, memory
  --force STAGE         run this stage again, with all that depend on it (may be repeated)
  --restart-from STAGE  run this stage and every later one again
  --section.key value   override a key of the configuration, such as --ppo.learning_rate 1e-5
  --debug               show the traceback of an error

Done stages are skipped; after Ctrl-C or a crash the same command continues."""

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = _take_flag(arguments, "--debug")
    try:
        _dispatch(arguments)
    except KeyboardInterrupt:
        print("\nstopped; run the same command to continue (without --force or --restart-from)", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `rleif report | head` is no error
        return 0
    except (ValueError, FileNotFoundError, ChildFailedError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        if not arguments:
            raise SettingsError("no command given")
        return
    commands = _commands()
    if arguments[0] == "label":
        if _asks_for_help(arguments[1:2]):
            print(LABEL_USAGE)
            return
        arguments = [" ".join(arguments[:2]), *arguments[2:]]
    check_names(arguments[:1], commands, "command")
    commands[arguments[0]](arguments[1:])


def _commands() -> dict[str, Callable[[list[str]], None]]:
    stages = {stage.command or stage.name: _stage_command(stage) for stage in STAGES}
    return stages | {"run": _run, "report": _report}


def _stage_command(stage: Stage) -> Callable[[list[str]], None]:
    def command(arguments: list[str]) -> None:
        from reward_models.arguments import parse_arguments

        if "--config" in arguments[:-1]:
            load_yaml(arguments[arguments.index("--config") + 1])  # for its errors: no file, a key given twice
        function, kinds = stage.load()
        parsed = parse_arguments(kinds, arguments, f"rleif {stage.command or stage.name}")
        is_first = int(os.environ.get("RANK", "0")) == 0
        with locked(Path(_output_dir(parsed))) if is_first else nullcontext():
            metrics = function(*parsed)
        if is_first:
            print(json.dumps(metrics, indent=2))

    return command


def _output_dir(parsed: Sequence[Any]) -> str:
    """Where the stage writes: every stage has an output_dir, or an output_file."""
    named = {
        name: getattr(part, name) for part in parsed for name in ("output_dir", "output_file") if hasattr(part, name)
    }
    return str(named.get("output_dir") or Path(named["output_file"]).parent)


def _run(arguments: list[str]) -> None:
    if not arguments or _asks_for_help(arguments):
        print(RUN_USAGE)
        return
    dry_run = _take_flag(arguments, "--dry-run")
    force = _take_values(arguments, "--force")
    restart_from = _take_values(arguments, "--restart-from")
    config = _take_values(arguments, "--config")
    if not config and arguments and not arguments[0].startswith("--"):
        config = [arguments.pop(0)]
    if len(config) != 1 or len(restart_from) > 1:
        raise SettingsError("rleif run takes one configuration: rleif run config.yaml")
    content = override(load_yaml(config[0]), arguments)
    if dry_run:
        print(load_name("rleif.plan:plan")(content))
        return
    load_name("rleif.pipeline.runner:run")(content, force=force, restart_from=next(iter(restart_from), None))


def _report(arguments: list[str]) -> None:
    if _asks_for_help(arguments):
        print(REPORT_USAGE)
        return
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise SettingsError("rleif report takes one run directory: rleif report runs/gsm8k")
    load_name("rleif.report:write_report")(arguments[0])


def _asks_for_help(arguments: list[str]) -> bool:
    return "-h" in arguments or "--help" in arguments


def _take_flag(arguments: list[str], name: str) -> bool:
    found = name in arguments
    while name in arguments:
        arguments.remove(name)
    return found


def _take_values(arguments: list[str], name: str) -> list[str]:
    """Remove every `name value` from the arguments; the values."""
    values: list[Any] = []
    while name in arguments:
        place = arguments.index(name)
        if place + 1 >= len(arguments) or arguments[place + 1].startswith("--"):
            raise SettingsError(f"{name} has no value")
        values.append(arguments[place + 1])
        del arguments[place : place + 2]
    return values
