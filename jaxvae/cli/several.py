"""Distributed training on the command line: joining the other processes, and leaving them."""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

from jaxvae import hosts
from jaxvae.cli.commands import Train
from jaxvae.hosts.runtime_log import held_back
from jaxvae.runs.stop import Interrupted
from jaxvae.types import InputError

LATE_S = 5.0  # an error of a collective arrives before the message that names the lost process


@contextlib.contextmanager
def joined(command: Any) -> Iterator[None]:
    """Connect this process with the others that the command names, for the length of the context."""
    if not isinstance(command, Train) or not _is_one_of_several(command):
        yield
        return
    with held_back():
        hosts.initialize(
            command.coordinator,
            command.num_processes,
            command.process_id,
            connect_timeout_s=command.connect_timeout_s,
        )
        try:
            yield
        except (InputError, KeyboardInterrupt):
            raise
        except Interrupted:
            hosts.finish()
            raise
        except Exception as error:
            time.sleep(LATE_S)  # if another process was lost, a thread ends this process meanwhile
            hosts.leave(f"{type(error).__name__}: {error}"[:300], 1)
            traceback.print_exc()
            end(1)
        hosts.finish()


def _is_one_of_several(command: Train) -> bool:
    given = command.coordinator, command.num_processes, command.process_id
    if not command.distributed and given == (None, None, None):
        return False
    if command.seeds is not None or command.learning_rates or command.betas:
        raise InputError(
            "coordinator: many runs train in one process; leave it out, or --seeds, "
            "--learning-rates and --betas"
        )
    return True


def end(status: int) -> NoReturn:
    """Exit; with several processes, without the normal exit that would wait for the others."""
    if hosts.count() == 1:
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
