"""Entry point: parse and run a command; errors of the user's input become one line and exit status 2."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxvae import data, hosts
from jaxvae.checks import require_positive
from jaxvae.cli.bench import bench
from jaxvae.cli.cache import use_compilation_cache
from jaxvae.cli.commands import Bench, Compare, Data, Evaluate, Report, Sample, Train
from jaxvae.cli.limit import in_time, process_begun
from jaxvae.cli.many import is_many_runs, train_many_runs
from jaxvae.cli.parsing import parse
from jaxvae.cli.progress import Terminal
from jaxvae.cli.several import end, joined
from jaxvae.cli.tables import print_table
from jaxvae.runs import RunFolder
from jaxvae.runs.compare import compare
from jaxvae.runs.evaluate import evaluate
from jaxvae.runs.folder import default_name, writing
from jaxvae.runs.stop import TIME_IS_UP, Interrupted
from jaxvae.runs.studies import STUDIES, require_possible, study, study_file
from jaxvae.runs.train import load_model, resume, train
from jaxvae.runs.watch import Reporter
from jaxvae.runs.words import TITLES, rows_of, sentences_of
from jaxvae.types import Conditional, InputError, Model

CLOSED = 141
"""The exit status if the output was closed, the same as a shell gives for SIGPIPE."""


def main(args: Sequence[str] | None = None) -> None:
    """Run `jaxvae` with these arguments, or with those of the process.

    Exit status: 0; 2 after one line on stderr, if the input is not usable; 128 plus the signal's number
    if a signal stopped a run, or 75 if its time limit did, after saving the run; 141, without a message,
    if its output was closed.
    """
    terminal = Terminal()
    begun = process_begun() if args is None else time.monotonic()
    try:
        command = parse(sys.argv[1:] if args is None else list(args))
        with in_time(command, begun) as command, joined(command):
            if not isinstance(command, Bench | Data) and (note := use_compilation_cache()):
                print(f"jaxvae: note: {note}", file=sys.stderr)
            if isinstance(command, Bench):
                bench(command, begun)
            else:
                RUN[type(command)](command, terminal)
    except InputError as error:
        terminal.close()
        hosts.leave(str(error), 2)
        _fail(str(error))
    except Interrupted as stop:
        terminal.close()
        if hosts.is_first():
            again = f"go on with `jaxvae train --resume {stop.path}`"
            print(f"{stop}, and saved; {again}", file=sys.stderr, flush=True)
        if args is None and stop.status == TIME_IS_UP:
            os._exit(stop.status)  # a normal exit can take longer than the time left
        sys.exit(stop.status)
    except KeyboardInterrupt:
        terminal.close()
        hosts.leave("interrupted", 130)
        print("interrupted", file=sys.stderr)
        end(130)
    except BrokenPipeError:  # the reader, such as `head`, has ended: no message is possible
        terminal.close()
        hosts.leave("its output was closed", CLOSED)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        end(CLOSED)


def _fail(message: str) -> NoReturn:
    print(f"jaxvae: error: {' '.join(message.split())}", file=sys.stderr)
    end(2)


def _train(command: Train, terminal: Terminal) -> None:
    begin = time.perf_counter()
    if is_many_runs(command):
        many = train_many_runs(command, terminal)
        for run in many.runs().values():
            if (run.path / "results.json").exists() and not _is_reported(run):
                _write_report(run)
        print(f"{time.perf_counter() - begin:.0f} s in all; a report in each folder of {many.path}")
        return
    reporter = terminal if hosts.is_first() else Reporter()
    limits: dict[str, Any] = {"devices": command.devices, "max_minutes": command.max_minutes}
    if command.resume is not None:
        run = resume(command.resume, reporter=reporter, **limits)
    else:
        path = command.runs_dir / (command.name or default_name(command.config))
        run = train(command.config, path, reporter=reporter, **limits)
    if not hosts.is_first():
        return
    _print_results(run.read("results.json"))
    _write_report(run)
    print(f"{time.perf_counter() - begin:.0f} s in all; report: {run.report_path.resolve()}")


def _evaluate(command: Evaluate, terminal: Terminal) -> None:
    require_positive(num_samples=command.num_samples, chunk_size=command.chunk_size)
    command.study.check()
    names = tuple(name for name in STUDIES if getattr(command, name))
    run = RunFolder.open(command.run)
    parts, model, step = load_model(run, command.checkpoint)
    require_possible(names, parts, command.split)
    results = evaluate(
        parts,
        model,
        split=command.split,
        num_samples=command.num_samples,
        chunk_size=command.chunk_size,
        on_progress=terminal.examples,
    )
    print(f"{command.checkpoint} checkpoint of {command.run}, step {step:,}")
    _print_results(results)
    of = {"checkpoint": command.checkpoint, "step": step}
    run.write(f"evaluation-{command.split}-{command.checkpoint}.json", {**of, **results})
    for name in names:
        record = study(
            name,
            parts,
            model,
            split=command.split,
            settings=command.study,
            on_progress=terminal.examples,
        )
        _print_study(record)
        run.write(study_file(name, command.split, command.checkpoint), {**of, **record})


def _print_study(record: dict[str, Any]) -> None:
    print(f"{TITLES[record['study']]} ({record['seconds']:.0f} s):")
    rows = rows_of(record)
    wide = max(len(name) for name, *_ in rows)
    far = max(len(value) for _, value, _ in rows)
    for name, value, meaning in rows:
        print(f"  {name:<{wide}}  {value:>{far}}  {meaning}".replace("±", "+-"))
    for sentence in sentences_of(record):
        print(f"  note: {sentence}")


def _compare(command: Compare, terminal: Terminal) -> None:
    from jaxvae.reports.compare import HEAD, difference_rows, table_rows, write_comparison

    require_positive(num_samples=command.num_samples, chunk_size=command.chunk_size)
    runs = [RunFolder.open(path) for path in command.runs]
    output = command.output or (runs[0].path.parent if runs else Path()) / "comparison.html"
    if output.suffix != ".html":
        raise InputError(f"output: expected a file that ends in .html, got {output}")
    compared = compare(
        runs,
        which=command.checkpoint,
        split=command.split,
        num_samples=command.num_samples,
        chunk_size=command.chunk_size,
        on_progress=lambda _, done, total: terminal.examples(done, total),
    )
    print_table([HEAD, *table_rows(compared)])
    print(f"from {compared[0].name}, on the same examples:")
    print_table([("", *HEAD[1:3], ""), *difference_rows(compared)])
    with writing(output.parent):
        write_comparison(compared, output)
    print(f"page: {output.resolve()}")


def _sample(command: Sample, _: Terminal) -> None:
    from jaxvae.reports import figures

    require_positive(num=command.num)
    run = RunFolder.open(command.run)
    output = command.output or run.path / "samples.png"
    if output.suffix != ".png":
        raise InputError(f"output: expected a file that ends in .png, got {output}")
    model = _of_class(load_model(run, command.checkpoint)[1], command.label)
    means = figures.prior_samples(model, num=command.num, seed=command.seed)
    with writing(output.parent):
        figures.example_grid(means).savefig(output, dpi=150)
        np.save(output.with_suffix(".npy"), means)
    print(f"{command.num} samples: {output} and {output.with_suffix('.npy')}")


def _of_class(model: Any, label: int | None) -> Model:
    """Return the model to draw from: `given` the class, if a label was passed."""
    if label is not None:
        if not isinstance(model, Conditional):
            raise InputError(f"label: has no effect for {type(model).__name__}; leave it out")
        return model.given(label)
    if not isinstance(model, Model):
        raise InputError("label: this is a model of x given a class; say which one with --label")
    return model


def _report(command: Report, _: Terminal) -> None:
    run = RunFolder.open(command.run)
    _write_report(run, command.checkpoint)
    print(f"report: {run.report_path.resolve()}")


def _data(command: Data, _: Terminal) -> None:
    import jax

    dataset = data.load(
        command.data,
        data_dir=command.data_dir,
        binarize=command.binarize,
        key=jax.random.key(0) if command.binarize == "static" else None,
        valid_size=command.valid_size,
    )
    print(data.describe(dataset))


def _is_reported(run: RunFolder) -> bool:
    """Return whether an earlier call has already written a report of these results."""
    report, results = run.report_path, run.path / "results.json"
    return report.exists() and report.stat().st_mtime_ns >= results.stat().st_mtime_ns


def _write_report(run: RunFolder, which: str = "best") -> None:
    from jaxvae.reports import write_report  # imports matplotlib, which not all commands need

    write_report(run, which)


def _print_results(results: dict[str, Any]) -> None:
    def line(name: str, pair: Sequence[float], note: str = "") -> None:
        print(f"  {name:<28}{pair[0]:>10.2f} +- {pair[1]:.2f} nats{note}")

    k = results["log_likelihood_num_samples"]
    which = (
        f", {results['checkpoint']} checkpoint (step {results['step']:,})"
        if "step" in results
        else ""
    )
    print(
        f"{results['split']} split, {results['examples']:,} examples, binarize {results['binarize']}{which}:"
    )
    line("ELBO", results["elbo"])
    line("  distortion", results["distortion"])
    line("  rate", results["rate"])
    line(f"log p(x), IWAE-{k}", results["log_likelihood"])
    if results["monte_carlo_error"] is not None:
        error = results["monte_carlo_error"]
        print(f"    of which by samples of z               +- {error:.3f} nats")
    line("  above the ELBO by", results["log_likelihood_minus_elbo"])
    if results["unreliable"] is not None:
        print(f"  Pareto k-hat above 0.7      {100 * results['unreliable']:>10.1f} % of examples")
    if "exact_log_likelihood" in results:
        line("log p(x), exact", results["exact_log_likelihood"])
    print(f"  active units                {results['active_units']} of {results['latent_dim']}")
    if "accuracy" in results:
        accuracy, error = (100 * value for value in results["accuracy"])
        print(f"  accuracy                    {accuracy:>10.2f} +- {error:.2f} %")
        print(confusion_table(results["confusion"]))


def confusion_table(counts: Sequence[Sequence[int]]) -> str:
    """Format a confusion matrix: rows are true classes, columns are predicted classes."""
    width = max(5, len(str(max(map(max, counts)))) + 1)
    head = "  true \\ taken for " + "".join(f"{c:>{width}}" for c in range(len(counts)))
    rows = [f"{c:>17} " + "".join(f"{n:>{width}}" for n in row) for c, row in enumerate(counts)]
    return "\n".join([head, *rows])


RUN = {
    Train: _train,
    Evaluate: _evaluate,
    Compare: _compare,
    Sample: _sample,
    Report: _report,
    Data: _data,
}
