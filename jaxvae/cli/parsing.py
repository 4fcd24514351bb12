"""Parsing of arguments into a command; parse errors become one line."""

import contextlib
import dataclasses
import io
import re
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from jaxvae.cli.commands import COMMANDS, Train
from jaxvae.runs import TrainConfig
from jaxvae.runs.many_folder import first_run
from jaxvae.types import InputError


def parse(args: list[str]) -> Any:
    """Parse the arguments into a command.

    Raises:
        InputError: the arguments are not valid.
        SystemExit: help was requested, and printed.
    """
    command = _parse(args, Train())
    if not isinstance(command, Train) or command.resume is None:
        return command
    # Parsed again with the stored configuration as default: what differs was given by the user.
    stored = first_run(command.resume).config()
    again = _parse(args, Train(config=stored))
    _require_unchanged(stored, again.config, command.resume)
    if again.name is not None or again.runs_dir != Train.runs_dir:
        raise InputError("resume: --name and --runs-dir have no effect here; leave them out")
    if again.seeds is not None or again.learning_rates or again.betas:
        raise InputError(
            "resume: --seeds, --learning-rates and --betas have no effect here; leave them out"
        )
    return again


def _parse(args: list[str], train: Train) -> Any:
    choices = [
        Annotated[
            command,
            tyro.conf.subcommand(name, default=train)
            if command is Train
            else tyro.conf.subcommand(name),
        ]
        for name, command in COMMANDS.items()
    ]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                Union[tuple(choices)],  # type: ignore[arg-type]  # noqa: UP007
                prog="jaxvae",
                description="Variational autoencoders in JAX: train, evaluate and look at one.",
                args=args,
                config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(one_line(said.getvalue())) from None


def one_line(box: str) -> str:
    """Return the text of a boxed message of tyro, up to its first rule, with a hint on where to find help."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip("│ ") for line in box.splitlines()]
    body = [line for line in lines if line and line[0] not in "╭╰"]
    message: list[str] = []
    for line in body:
        if set(line) == {"─"}:
            break
        message.append(line)
    help_call = re.search(r"jaxvae( \w+)? --help", " ".join(body))
    return " ".join(message) + f" (see `{help_call.group() if help_call else 'jaxvae --help'}`)"


def _require_unchanged(stored: TrainConfig, given: TrainConfig, path: Path) -> None:
    for field in dataclasses.fields(TrainConfig):
        old, new = getattr(stored, field.name), getattr(given, field.name)
        if old != new:
            raise InputError(
                f"resume: {field.name} is {old} in {path} and cannot become {new}; "
                "leave it out, or start a new run"
            )
