"""The command line: what can be asked, and how each end becomes an exit code.

Nothing heavy is imported before it is needed, so that `--help` is there at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from tunesmith_cli.mistakes import Refused
from tunesmith_cli.terminal import err, out

_EPILOG = (
    "Exit codes of run: 0 done, and all gates passed; 1 a gate failed or was inconclusive;"
    " 65 something in the job or its data has to be changed; 70 something failed that another run"
    " may get past; 75 stopped, the same command goes on; 76 out of memory."
)

app = typer.Typer(
    name="tunesmith",
    help="Fine-tunes language models on this machine: the same jobs, files and results as in a"
    " cluster, without one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Looks at data before anything is trained.", no_args_is_help=True)
app.add_typer(data, name="data")


@app.command(epilog=_EPILOG)
def run(
    file: Annotated[
        Path, typer.Argument(help="A FineTuneJob (YAML). Paths in it count from its folder.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the results, in the place of output.uri.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for scratch files and logs. Default: beside the results."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Another value for a field of spec, such as hyperparameters.maxSteps=10. May be"
            " given several times.",
        ),
    ] = None,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Train on the CPU, whatever the job asks for.")
    ] = False,
) -> None:
    """Train, judge and export a model by a job's file.

    Run the same file again to go on where it stopped; what is finished is found. Ctrl-C saves a
    checkpoint.
    """
    from tunesmith_cli.jobfile import load_job
    from tunesmith_cli.running import run_job

    _quieten()
    raise typer.Exit(run_job(load_job(file, settings or [], output), work, is_cpu_wanted=cpu))


@app.command()
def chat(
    path: Annotated[
        str,
        typer.Argument(
            help="What to talk to: a run, one of its artifacts, a model's folder or a .gguf file,"
            " on this machine or s3://…; a job's YAML; hf://ORGANIZATION/NAME; or builtin://tiny."
        ),
    ],
    *,
    prompt: Annotated[
        str | None, typer.Option(help="One question; its answer is printed, and that is all.")
    ] = None,
    system: Annotated[str, typer.Option(help="System message.")] = "",
    examples: Annotated[
        Path | None,
        typer.Option(help="File with questions and answers, in any data format, shown before."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer, in tokens. Default: a Modelfile's, else 256."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=5,
            help="0 always takes the most likely word. Default: a Modelfile's, else 0.",
        ),
    ] = None,
) -> None:
    """Talk to a model, with or without training it first."""
    from tunesmith_cli.chatting import Settings, Speaker, converse, say

    _quieten()
    with Speaker(path, system, examples, Settings(max_tokens, temperature)) as speaker:
        if prompt is None:
            converse(speaker)
        else:
            say(speaker, prompt)


@data.command()
def check(
    place: Annotated[
        str,
        typer.Argument(
            metavar="FILE_OR_JOB", help="Data (a file, folder or URI), or a job's YAML."
        ),
    ],
    *,
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="Shape of the rows, such as Messages; docs/data.md has all of them."
        ),
    ] = "",
    objective: Annotated[
        str,
        typer.Option(
            help="What the rows are for: SFT, DPO or Pretrain. Default: the job's, or DPO for"
            " preferences and else SFT."
        ),
    ] = "",
    model: Annotated[
        str, typer.Option(help="Whose tokenizer counts: a folder, hf://… or builtin://tiny.")
    ] = "",
    max_sequence_length: Annotated[
        int,
        typer.Option(min=0, help="Most tokens of a row. 0: the job's, or what the model reads."),
    ] = 0,
    rows: Annotated[int, typer.Option(min=0, help="How many rows are shown.")] = 3,
) -> None:
    """Show what preparation would do: format, malformed rows, splits, tokens, the first rows.

    What would be learned stands in ⟦brackets⟧ and in green.
    """
    from tunesmith_cli.checking import Wishes, check_data, read_asked

    _quieten()
    wishes = Wishes(format_, objective, model, max_sequence_length)
    check_data(read_asked(place, wishes), rows)


@data.command()
def select(
    place: Annotated[
        str,
        typer.Argument(
            metavar="LOGS_OR_JOB",
            help="Conversation logs or other data (a file, folder or URI), or a job's YAML.",
        ),
    ],
    *,
    model: Annotated[
        str,
        typer.Option(help="Whose uncertainty counts: a run, a model's folder, s3://…, hf://…"),
    ],
    output: Annotated[Path, typer.Option("--out", help="JSON lines to write; must not exist.")],
    count: Annotated[int, typer.Option(min=1, help="How many rows are picked.")] = 100,
    by: Annotated[
        str,
        typer.Option(
            help="What uncertainty is: loss (answers that the model would not have given) or"
            " entropy (places where it sees several ways on)."
        ),
    ] = "loss",
    format_: Annotated[
        str,
        typer.Option("--format", help="Shape of the rows; docs/data.md has all of them."),
    ] = "",
    sample: Annotated[
        int,
        typer.Option(min=0, help="Most rows the model is asked about, drawn by the seed. 0: all."),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="The same one picks the same rows.")] = 0,
) -> None:
    """Pick the logged conversations that are worth a person's time.

    Of those that the model is least sure of, the ones that differ most from each other.
    """
    from tunesmith_cli.selecting import Wishes, select_rows

    _quieten()
    select_rows(place, output, Wishes(model, count, by, format_, sample, seed))


@app.command()
def report(
    path: Annotated[
        str,
        typer.Argument(
            help="The folder of a run or of a job's output, on this machine or s3://…; or the"
            " job's YAML."
        ),
    ],
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Whether report.html is shown in a browser.")
    ] = True,
) -> None:
    """Show what a run has come to."""
    from tunesmith_cli.reports import open_page, show_report
    from tunesmith_cli.results import find_run, parse_origin

    _quieten()
    found = find_run(parse_origin(path))
    show_report(found)
    if open_:
        open_page(found.path)


@app.command()
def version() -> None:
    """Print the version."""
    from tunesmith_trainer import VERSION

    out.print(f"tunesmith {VERSION}", markup=False)


def main() -> None:
    """Start; what a person has to change is said without a traceback."""
    try:
        app()
    except Exception as error:
        lines, code = _explained(error)
        for line in lines:
            err.print(line, markup=False, style="red")
        raise SystemExit(code) from None


def _explained(error: Exception) -> tuple[tuple[str, ...], int]:
    """Say what a person has to change, with the exit code; raises what nobody can."""
    from tunesmith_api.result import ExitCode
    from tunesmith_trainer.outcome import TrainerError, exit_code

    if isinstance(error, Refused):
        return error.lines, ExitCode.USER_ERROR
    if isinstance(error, TrainerError):
        return (f"{error.reason}: {error.message}",), exit_code(error.outcome)
    raise error


def _quieten() -> None:
    """Leave the trainer's log lines to the stages, whose logs are files."""
    import structlog

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


if __name__ == "__main__":
    main()
