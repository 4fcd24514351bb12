"""The commands and their options: frozen dataclasses, whose docstrings are the help texts."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxvae.bench.suites import SuiteName
from jaxvae.bench.workloads import DEFAULT, WorkloadName
from jaxvae.networks import Precision
from jaxvae.runs import TrainConfig
from jaxvae.runs.studies import Settings

RunPath = Annotated[Path, tyro.conf.Positional]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a model, evaluate it on the test split, and write a report.

    Without options it trains on the digits that come with jaxvae, in under a minute. All output goes
    to the run's own folder, `runs/NAME`. A run that was stopped is continued by --resume.
    """

    config: tyro.conf.OmitArgPrefixes[TrainConfig] = dataclasses.field(default_factory=TrainConfig)

    name: str | None = None
    """Name of the run; made from the data, the objective and the time if not given."""
    runs_dir: Path = Path("runs")
    """Folder in which the run folder is made."""
    resume: Path | None = None
    """Continue the run of this folder from its last checkpoint, with the same bits as if it had never
    stopped. Its options stay the same. For a folder of several runs, all of them are continued."""
    max_minutes: float | None = None
    """Time limit in minutes from the start of the command, for machines that are lent for a time: before it,
    the command saves the run, prints how to continue, and exits with status 75. The limit of a resumed run
    counts from its own command. The command stops early by the longest time that one operation, such as
    compiling, has taken; --resume does the remaining training, evaluation and report."""
    seeds: int | None = None
    """Train this number of runs together, with the seeds `seed`, `seed` + 1, ..: one compiled program, a run
    folder for each in `runs/NAME`, and the standard deviation between them at the end."""
    learning_rates: tuple[float, ...] = ()
    """Train a run with each of these learning rates, all together; with --seeds or --betas, every combination."""
    betas: tuple[float, ...] = ()
    """Train a run with each of these weights of the rate, all together; combined as --learning-rates."""
    devices: int | None = None
    """Number of devices that share each step; all if not given. The results do not depend on it."""
    distributed: Flag = False
    """This is one of several processes that train together, started by SLURM, Open MPI, GKE or on a TPU
    pod, whose environment tells how to reach the others."""
    coordinator: str | None = None
    """HOST:PORT of process 0 (a free port), for several processes that are started by hand. Start the same
    command on every machine, each with its own --process-id; only process 0 writes and prints."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Number of this process, from 0."""
    connect_timeout_s: float = 60.0
    """Seconds to wait for the others."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Print the ELBO and an importance-weighted log-likelihood of a trained run, with errors.

    Samples are computed in chunks, so memory does not grow with their number. Flags add further studies:
    their results are printed, written to the run folder, and included in reports written later.
    """

    run: RunPath
    """A run folder, such as runs/digits-elbo-20260131-235959."""
    num_samples: int = 5000
    """K, the number of samples of z for each example in the importance-weighted estimate."""
    split: Literal["test", "valid", "train"] = "test"
    """Split to evaluate on."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the lowest validation loss, or the last one."""
    chunk_size: int = 100
    """Number of samples of an example that are computed at once."""
    ais: Flag = False
    """Annealed importance sampling on the first examples, and lower and upper bounds on log p(x) for
    examples drawn from the model."""
    gaps: Flag = False
    """The approximation gap (due to the family of q(z|x)) and the amortisation gap (due to the encoder)."""
    structure: Flag = False
    """Mutual information, marginal KL, use of z by the decoder; with warnings in words."""
    probes: Flag = False
    """Accuracy of classifiers and clusters of the posterior means in predicting the labels; if the data have
    known factors, also scores of disentanglement."""
    imputation: Flag = False
    """Hide values, impute them, and compare with the truth."""
    study: tyro.conf.OmitArgPrefixes[Settings] = dataclasses.field(default_factory=Settings)
    """Sizes and options of these studies."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare trained runs: one table, and paired differences on the same test examples.

    Every run is evaluated on the same examples and the same draws of them, so that differences have
    far smaller errors than the numbers themselves. Writes a page with figures, and a JSON file.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Two run folders or more; differences are from the first one."""
    num_samples: int = 1000
    """K, the number of samples of z for each example in the importance-weighted estimate."""
    split: Literal["test", "valid", "train"] = "test"
    """Split to evaluate on."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the lowest validation loss, or the last one."""
    chunk_size: int = 100
    """Number of samples of an example that are computed at once."""
    output: Path | None = None
    """File for the page (.html); `comparison.html` in the parent folder of the first run if not given."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw z from the prior of a trained run and decode it: a picture and an array of the means of p(x|z)."""

    run: RunPath
    """A run folder, such as runs/digits-elbo-20260131-235959."""
    num: int = 64
    """Number of samples."""
    label: int | None = None
    """Class to draw examples of, for a model that is conditional on a class."""
    seed: int = 0
    """Seed of the draws."""
    output: Path | None = None
    """File for the picture (.png); the array is written to the same path with .npy. `samples.png` in the run
    folder if not given."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the lowest validation loss, or the last one."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Write the report of a run again: one HTML page with its curves, pictures and numbers."""

    run: RunPath
    """A run folder, such as runs/digits-elbo-20260131-235959."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the lowest validation loss, or the last one."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure how fast training and evaluation run on this machine.

    The workloads are timed in turn. Their data are random bits of MNIST's shape, on the device. `efficiency`
    is the time of a step's matrix products and convolutions alone / the time of the step; `of matmul` the flop
    per second of the step / that of one large matrix product; `loop` the time of the bare step / that of a
    step in the training loop, which gathers and binarises rows and merges metrics; all timed in the same
    rounds.
    """

    workloads: tuple[WorkloadName, ...] = DEFAULT
    """Workloads to time; if not given, all except `iwae50_128`, which is `iwae50` at batch size 128."""
    suite: SuiteName = "default"
    """`device` is for a machine that is available for minutes: `vae`, `iwae50` and `iwae50_128` in float32 and
    bfloat16 with their peers, and in the library's loop; then start-up, ways to run a step, evaluation,
    and 1, 8 and 32 models in one program."""
    budget_seconds: float | None = None
    """Time limit in seconds, compiling included; the parts left out are listed."""
    rounds: int = 5
    """Number of turns of each workload."""
    seconds_a_round: float | None = None
    """Approximate length of a turn in seconds; 1 if not given, 0.25 in the suite `device`."""
    batch_size: int | None = None
    """Examples per step; each workload's own if not given. For `evaluation`, images per call."""
    precision: Precision = "float32"
    """Precision of the matrix products, as in `jaxvae train`: float32 is JAX's default on the device, on GPUs
    often TensorFloat-32; bfloat16 rounds the operands and sums in float32; highest is full float32."""
    peers: Flag = False
    """Also time the steps of `vae` and `iwae50` in PyTorch, eager and compiled, on a GPU also with the whole
    step as one CUDA graph, and in NumPyro, in the same rounds, and print the ratios of speed. A peer that is
    not installed, or not ready after two minutes, is left out. Peers compile at the same time as jaxvae."""
    torch_python: Path | None = None
    """Python interpreter with PyTorch, for the peers; this one if not given. It needs no jaxvae."""
    out: Path | None = None
    """File for the numbers (JSON); it is written after every part, and when the command is stopped."""
    compare: Path | None = None
    """File that an earlier `jaxvae bench --out` wrote on this machine, in this precision: print new / old."""
    figure: Path | None = None
    """File for a picture of the efficiencies, and of the ratios to the peers (.png)."""
    scaling: Flag = False
    """Also time `iwae50` for several batch sizes, K and widths, with a line fitted to each; on 1, 2, 4, ..
    devices; by jit, pmap and shard on one device; and 8 models of `vae` and of `iwae50` in one program."""
    table: Path | None = None
    """Measure nothing: print tables for a README from the file that an earlier `jaxvae bench --out` wrote."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Load a data set and describe it; a TFDS set is decoded once and cached."""

    data: Annotated[str, tyro.conf.Positional] = "digits"
    """`digits`, `shapes`, a .npy or .npz file, an alignment, a folder of IDX files, or the name of a
    TFDS image set."""
    data_dir: str | None = None
    """The folder of prepared TFDS sets (TFDS's own default if not given)."""
    binarize: Literal["dynamic", "static", "threshold", "none"] = "none"
    """How grey levels become bits."""
    valid_size: int | None = None
    """Number of training examples to hold out for validation."""


COMMANDS = {
    "train": Train,
    "evaluate": Evaluate,
    "compare": Compare,
    "sample": Sample,
    "report": Report,
    "bench": Bench,
    "data": Data,
}
