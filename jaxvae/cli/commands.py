"""What each command takes: frozen dataclasses, whose docstrings are the help texts."""

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

    Without options it learns the digits that come with jaxvae, in under a minute. Everything goes
    to a folder of its own, `runs/NAME`. A run that was stopped goes on by --resume.
    """

    config: tyro.conf.OmitArgPrefixes[TrainConfig] = dataclasses.field(default_factory=TrainConfig)

    name: str | None = None
    """Name of the run; made from the data, the objective and the time if not given."""
    runs_dir: Path = Path("runs")
    """The folder that the run's own folder is made in."""
    resume: Path | None = None
    """Go on with this run folder from its last checkpoint, to the same bits as if it had never
    stopped. Its options stay what they were. A folder of many runs goes on with all of them."""
    max_minutes: float | None = None
    """Save, say how to go on, and end with exit status 75 before so many minutes have passed since the
    command began: for machines that are lent for a time. A resumed run has the minutes of its own
    command. It leaves early by the longest that it has been at one thing, such as compiling; what is
    not trained, evaluated and reported by then, --resume does."""
    seeds: int | None = None
    """Train so many runs at once, with the seeds `seed`, `seed` + 1, ..: one compiled program, a run
    folder each in `runs/NAME`, and the standard deviation between them at the end."""
    learning_rates: tuple[float, ...] = ()
    """Train a run with each of these, all at once; with --seeds or --betas, every combination."""
    betas: tuple[float, ...] = ()
    """The same for weights of the rate."""
    devices: int | None = None
    """How many devices share each step; all there are if not given. The numbers do not depend on it."""
    distributed: Flag = False
    """This is one of several processes that train together, started by SLURM, Open MPI, GKE or on a TPU
    pod, which says how to find the others."""
    coordinator: str | None = None
    """The same, started by hand: HOST:PORT of process 0, a free port. Start the same command on every
    machine, each with its own --process-id; only process 0 writes and prints."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    connect_timeout_s: float = 60.0
    """Seconds to wait for the others."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Print the ELBO and an importance-weighted log-likelihood of a trained run, with errors.

    Samples stream through in chunks, so memory does not grow with their number. Flags ask for more:
    what they find is printed, written beside the run, and shown by its report from then on.
    """

    run: RunPath
    """A run folder, such as runs/digits-elbo-20260131-235959."""
    num_samples: int = 5000
    """K, how many samples of z each example gets in the importance-weighted estimate."""
    split: Literal["test", "valid", "train"] = "test"
    """Which examples."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the lowest validation loss, or the last one."""
    chunk_size: int = 100
    """Samples of an example that are computed together."""
    ais: Flag = False
    """Annealed importance sampling on the first examples, and a sandwich of log p(x) between a lower
    and an upper bound on examples drawn from the model."""
    gaps: Flag = False
    """How much of log p(x) is lost by the family of q(z|x), and how much by the encoder."""
    structure: Flag = False
    """Mutual information, marginal KL, use of z by the decoder; in words what is amiss."""
    probes: Flag = False
    """How well classifiers and clusters of the posterior means tell the labels; with known factors of
    the data, scores of disentanglement."""
    imputation: Flag = False
    """Hide values, fill them in, and compare with the truth."""
    study: tyro.conf.OmitArgPrefixes[Settings] = dataclasses.field(default_factory=Settings)
    """How far these go."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Put trained runs side by side: one table, and paired differences on the same test examples.

    Every run is evaluated on the same examples and the same draws of them, so that differences have
    far smaller errors than the numbers themselves. Writes a page with figures, and JSON beside it.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Two run folders or more; differences are from the first one."""
    num_samples: int = 1000
    """K, how many samples of z each example gets in the importance-weighted estimate."""
    split: Literal["test", "valid", "train"] = "test"
    """Which examples."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the lowest validation loss, or the last one."""
    chunk_size: int = 100
    """Samples of an example that are computed together."""
    output: Path | None = None
    """Where to write the page (.html); `comparison.html` beside the first run if not given."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw z from the prior of a trained run and decode it: a picture and an array of the means of p(x|z)."""

    run: RunPath
    """A run folder, such as runs/digits-elbo-20260131-235959."""
    num: int = 64
    """How many."""
    label: int | None = None
    """The class to draw examples of, for a model that can be given one."""
    seed: int = 0
    """Where the draws come from."""
    output: Path | None = None
    """Where to write the picture (.png); the array goes beside it (.npy). In the run folder if not
    given."""
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

    The workloads take turns. Their data are random bits of MNIST's shape, on the device. `efficiency` is
    the time of a step's matrix products and convolutions alone over the time of the step; `of matmul`
    the flop a second of the step over that of one large matrix product; `loop` the time of the bare step
    over that of a step in training itself, which gathers and binarises rows and merges metrics; all
    timed in the same rounds.
    """

    workloads: tuple[WorkloadName, ...] = DEFAULT
    """Which ones; all but `iwae50_128`, which is `iwae50` at batch 128, if not given."""
    suite: SuiteName = "default"
    """`device` is for a machine that is at hand for minutes: `vae`, `iwae50` and `iwae50_128` in float32 and
    bfloat16 beside their peers, and in the library's loop; then start-up, ways to run a step, evaluation,
    and 1, 8 and 32 models in one program."""
    budget_seconds: float | None = None
    """End within so many seconds, compiling included, and say what was left out."""
    rounds: int = 5
    """How often each has its turn."""
    seconds_a_round: float | None = None
    """About how long a turn takes; 1 if not given, 0.25 in the suite `device`."""
    batch_size: int | None = None
    """Examples a step; each workload's own if not given. Of `evaluation`, the images of a call."""
    precision: Precision = "float32"
    """Of the products, as of `jaxvae train`: float32 is what JAX does with it on the device, on GPUs
    often TensorFloat-32; bfloat16 rounds the operands and sums in float32; highest is all of float32."""
    peers: Flag = False
    """Time the steps of `vae` and `iwae50` in PyTorch, eager and compiled, on a GPU also with the whole step as
    one CUDA graph, and in NumPyro too, in the same rounds, and print how many times as fast jaxvae is. What
    is not installed, or not up after two minutes, is left out. They compile beside jaxvae."""
    torch_python: Path | None = None
    """The interpreter that has PyTorch, for the peers; this one if not given. It needs no jaxvae."""
    out: Path | None = None
    """Where to write the numbers (JSON): after every part, and when it is stopped."""
    compare: Path | None = None
    """What an earlier `jaxvae bench --out` wrote on this machine, in this precision: print new / old."""
    figure: Path | None = None
    """Where to write a picture of the efficiencies, and of the ratios to the peers (.png)."""
    scaling: Flag = False
    """Time `iwae50` against batch, K and width as well, with a line through each; on 1, 2, 4, .. devices;
    by jit, pmap and shard on one; and 8 models of `vae` and of `iwae50` in one program."""
    table: Path | None = None
    """Measure nothing: print the tables of what an earlier `jaxvae bench --out` wrote, for a README."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Load a data set and say what is in it; a TFDS set is decoded once and kept."""

    data: Annotated[str, tyro.conf.Positional] = "digits"
    """`digits`, `shapes`, a .npy or .npz file, an alignment, a folder of IDX files, or the name of a
    TFDS image set."""
    data_dir: str | None = None
    """Where prepared TFDS sets lie (TFDS's own default if not given)."""
    binarize: Literal["dynamic", "static", "threshold", "none"] = "none"
    """How grey levels become bits."""
    valid_size: int | None = None
    """How many training examples to hold out for validation."""


COMMANDS = {
    "train": Train,
    "evaluate": Evaluate,
    "compare": Compare,
    "sample": Sample,
    "report": Report,
    "bench": Bench,
    "data": Data,
}
