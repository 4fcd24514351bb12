"""The configuration of a run, and the data, model, objective and optimiser that are built from it."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
import optax
from jaxtyping import Array
from numpyro.distributions import constraints

from jaxvae.checks import require_integer, require_positive, require_weight
from jaxvae.compiling import jit_quickly
from jaxvae.data import Dataset, load, require_support
from jaxvae.keys import OfWeights, stream_key
from jaxvae.log_weights import KL
from jaxvae.models.likelihoods import LikelihoodName
from jaxvae.models.posteriors import PosteriorName
from jaxvae.networks import Activation, Initializer, Precision, with_precision
from jaxvae.runs.method import Labelled, make_method, with_estimator
from jaxvae.runs.models import (
    ModelName,
    make_model,
    started_from_data,
    support_of,
    with_defaults,
)
from jaxvae.training import learning_rate_schedule
from jaxvae.training.schedules import Decay, require_within
from jaxvae.training.step import Step
from jaxvae.types import AnyModel, InputError, Objective, PRNGKey

Binarize: TypeAlias = Literal["auto", "dynamic", "static", "threshold", "none"]


MODEL_OPTIONS = (
    "latent_dim",
    "hidden",
    "activation",
    "initializer",
    "likelihood",
    "posterior",
    "num_categories",
    "network",
    "channels",
    "decoder",
    "order",
    "layer_dims",
    "upper_hidden",
    "num_components",
    "covariance",
    "num_pseudo_inputs",
    "num_flows",
    "variance",
    "classifier_hidden",
    "num_batches",
)
"""The fields of a configuration that are options of its model."""

OF_GRADIENTS = (
    "objective",
    "num_samples",
    "kl",
    "gradient",
    "free_bits",
    "beta",
    "kl_warmup_steps",
    "num_labels",
    "label_weight",
    "batch_size",
    "learning_rate",
    "learning_rate_decay",
    "learning_rate_warmup_steps",
)
"""The fields that EM does not use."""

BETA = 4.0
"""The default `beta` of the model beta_vae."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The configuration of a run. Every value, defaults included, is written to its `config.json`."""

    data: str = "digits"
    """The data set: `digits` or `shapes` (both come with jaxvae), a .npy or .npz file, an alignment
    (.a2m, .fasta), a folder of IDX files, or the name of a TFDS image set such as `mnist`."""
    data_dir: str | None = None
    """The folder of prepared TFDS sets (TFDS's own default if not given)."""
    binarize: Binarize = "auto"
    """How grey levels become bits: `dynamic` draws bits anew every step, `static` draws them once,
    `threshold` compares with one half, `none` leaves the levels; `auto` is dynamic for grey levels
    with a Bernoulli likelihood, none otherwise."""
    dequantize: bool = False
    """Replace each 8-bit grey level by a uniform draw from its cell, anew at every use: for densities
    of values strictly between 0 and 1."""
    drop_empty: bool = False
    """Leave out the columns and rows of a table of counts that have no counts."""
    stream: bool = False
    """Leave the training examples on disk and read each batch ahead of its step, with the same results:
    for an .npy file, a folder of them, or a TFDS set that is larger than memory."""
    valid_size: int | None = None
    """Number of training examples to hold out for validation (if not given, the set's own split, or
    else a tenth); 0 trains on all of them and keeps no best checkpoint."""

    model: ModelName = "vae"
    """The model, which defines p(z), q(z|x) and p(x|z). Each model has some of the options that follow;
    an option that is not given takes the model's default, and one that the model lacks is refused."""
    latent_dim: int | None = None
    """Size of the latent z."""
    hidden: tuple[int, ...] | None = None
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    activation: Activation | None = None
    """Activation function after each hidden layer."""
    initializer: Initializer | None = None
    """How the initial weights are drawn; `fan_in_uniform` is the default of PyTorch's linear layers."""
    likelihood: LikelihoodName | None = None
    """The family of p(x|z)."""
    posterior: PosteriorName | None = None
    """The family of q(z|x), which also determines the prior."""
    num_categories: int | None = None
    """Number of classes of each latent of a categorical posterior."""
    network: str | None = None
    """Kind of layers: mlp, gated or residual; for a conv_vae, see its factory."""
    channels: tuple[int, ...] | None = None
    """Channels of the convolutions, each of which halves the image; the decoder has them in reverse."""
    decoder: Literal["made", "recurrent", "markov"] | None = None
    """Network that computes the distribution of each value of x from the values before it."""
    order: int | None = None
    """Number of preceding values that a Markov decoder sees."""
    layer_dims: tuple[int, ...] | None = None
    """Sizes of the layers of latents, the lowest first."""
    upper_hidden: tuple[int, ...] | None = None
    """Widths of the hidden layers between one layer of latents and the next."""
    num_components: int | None = None
    """Number of components of a mixture."""
    covariance: Literal["full", "diagonal", "spherical"] | None = None
    """Kind of covariance of each component of a mixture."""
    num_pseudo_inputs: int | None = None
    """Number of pseudo-inputs of a VampPrior."""
    num_flows: int | None = None
    """Number of flows of a flow prior."""
    variance: float | None = None
    """Variance of the noise of a linear model; learned if not given."""
    classifier_hidden: tuple[int, ...] | None = None
    """Widths of a classifier's hidden layers; those of the encoder if not given."""
    num_batches: int | None = None
    """Number of experimental batches of the counts; the labels are then the batch numbers."""

    fit: Literal["gradient", "em"] = "gradient"
    """How the model is fitted: by gradients, or by EM if its posterior is known exactly; a step
    of EM sees all training examples."""
    objective: Literal["elbo", "iwae"] = "elbo"
    """The bound to maximise."""
    num_samples: int = 1
    """K, the number of samples of z for each example."""
    kl: KL | None = None
    """How the ELBO's rate is computed: in closed form, with the closed form of the entropy, or by samples.
    If not given, in closed form if the model has one, else by samples; `config.json` states which."""
    gradient: str | None = None
    """The gradient estimator, such as pathwise, stl, dreg, score, vimco, rws or enumerate. If not
    given, pathwise; for latents that cannot be reparameterised, enumerate (vimco for iwae)."""
    free_bits: float = 0.0
    """Free bits, in nats per latent: a rate of a latent below this costs as much as this."""
    beta: float | None = None
    """Weight of the rate in the ELBO that training maximises (if not given, 1; 4 for beta_vae);
    reports stay unweighted."""
    kl_warmup_steps: int = 0
    """Steps over which the weight of the rate rises from 0 to beta."""
    num_labels: int | None = None
    """Number of training examples whose labels a semi-supervised model sees, equally many per class
    (if not given, 10 per class)."""
    label_weight: float | None = None
    """Weight of the classification loss relative to one unlabelled example (if not given, 100)."""

    batch_size: int = 128
    """Examples per step."""
    total_steps: int = 5000
    """Number of training steps of the run."""
    learning_rate: float = 1e-3
    """Adam's highest learning rate."""
    learning_rate_decay: Decay = "constant"
    """Shape of the learning rate after its warm-up: constant, or decaying to 0 at the end."""
    learning_rate_warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    eval_every_steps: int | None = None
    """Steps between evaluations, each of which writes metrics and a checkpoint (if not given, a
    twentieth of the run)."""
    test_num_samples: int = 1000
    """K of the importance-weighted estimate on the test split when training ends."""
    seed: int = 0
    """Seed of all random numbers."""
    precision: Precision = "float32"
    """Precision of the networks' matrix products: `float32` as the device computes it (TensorFloat-32 on
    GPUs), `highest` for full float32, `bfloat16` for operands rounded to it; all else is float32."""

    def resolved(self) -> "TrainConfig":
        """Check every value and fill in the defaults that depend on other values.

        Raises:
            InputError: a value is out of its range, or has no effect in combination with the others.
        """
        require_positive(
            num_samples=self.num_samples,
            batch_size=self.batch_size,
            total_steps=self.total_steps,
            test_num_samples=self.test_num_samples,
        )
        require_integer("seed", self.seed, at_least=0)
        if self.beta is not None:
            require_weight(beta=self.beta)
        require_within("kl_warmup_steps", self.kl_warmup_steps, self.total_steps)
        self.learning_rates()
        if self.objective == "iwae":
            self.refuse_without_effect(
                "the importance-weighted bound has no separate rate",
                "free_bits",
                "beta",
                "kl_warmup_steps",
                "kl",
            )
        if self.stream:
            self.refuse_in_memory()
        if self.fit == "em":
            self.refuse_without_effect("EM takes whole steps on all examples", *OF_GRADIENTS)
        if self.beta == 0:
            self.refuse_without_effect("it rises to beta = 0", "kl_warmup_steps")
        every = self.eval_every_steps
        if every is None:
            every = max(1, self.total_steps // 20)
        if not 1 <= every <= self.total_steps:
            raise InputError(
                f"eval_every_steps: expected 1 to {self.total_steps}, the length of the run, "
                f"got {every}"
            )
        resolved = with_defaults(self, MODEL_OPTIONS)
        beta = self.beta
        if beta is None and self.objective == "elbo" and self.fit == "gradient":
            beta = BETA if self.model == "beta_vae" else 1.0
        return dataclasses.replace(resolved, eval_every_steps=every, beta=beta)

    def refuse_without_effect(self, why: str, *names: str) -> None:
        """Refuse these fields if they differ from their defaults.

        Raises:
            InputError: one of these was given.
        """
        for name in names:
            default = type(self).__dataclass_fields__[name].default
            if (value := getattr(self, name)) != default:
                raise InputError(
                    f"{name}: has no effect here, because {why}; got {value}, leave it out"
                )

    def refuse_in_memory(self) -> None:
        """Refuse options that need all training examples in memory.

        Raises:
            InputError: one of these was given together with `stream`.
        """
        needing = {"fit": "em", "model": "ssvae", "binarize": "static", "drop_empty": True}
        for name, value in needing.items():
            if getattr(self, name) == value:
                raise InputError(
                    f"stream: {name}={value} needs all training examples in memory; leave one of them out"
                )

    def learning_rates(self) -> optax.Schedule:
        """Return the learning rate as a function of the step."""
        return learning_rate_schedule(
            self.learning_rate,
            self.total_steps,
            warmup_steps=self.learning_rate_warmup_steps,
            decay=self.learning_rate_decay,
        )

    def keys(self) -> tuple[PRNGKey, PRNGKey, PRNGKey, PRNGKey]:
        """Return the keys of the initial weights, the run, the data and the evaluation."""
        return _keys(np.int64(self.seed))


@jit_quickly
def _keys(seed: Array) -> tuple[PRNGKey, ...]:
    return tuple(jax.random.split(jax.random.key(seed), 4))


@dataclasses.dataclass(frozen=True)
class Parts:
    """The data set, model, objective, optimiser and step of a configuration, built and checked."""

    config: TrainConfig
    dataset: Dataset
    model: AnyModel
    objective: Objective
    optimizer: optax.GradientTransformation
    step: Step
    labelled: Labelled | None = None

    @property
    def batch_size(self) -> int:
        """Examples per step; EM takes all training examples."""
        rows = len(self.dataset.splits["train"]["x"])
        return rows if self.config.fit == "em" else self.config.batch_size


def build(config: TrainConfig, *, dataset: Dataset | None = None) -> Parts:
    """Load the data and build the model, objective, optimiser and step of a configuration.

    Args:
        config: the configuration.
        dataset: the data set of another configuration with the same data, to avoid loading it again.

    Returns:
        The parts; `parts.config` is the resolved configuration, with all defaults filled in.

    Raises:
        InputError: a value is not usable, or the data do not fit the likelihood.
    """
    config = config.resolved()
    weights_key, _, data_key, _ = config.keys()
    start_key = stream_key(weights_key, OfWeights.START)
    label_key = stream_key(weights_key, OfWeights.LABELS)
    dataset = _load(config, data_key) if dataset is None else dataset
    rows = len(dataset.splits["train"]["x"])
    if config.batch_size > rows and config.fit == "gradient":
        raise InputError(
            f"batch_size: expected at most {rows}, the size of the training split of "
            f"{dataset.name}, got {config.batch_size}"
        )
    model = make_model(weights_key, config, MODEL_OPTIONS, dataset)
    model = with_precision(model, config.precision)
    dataset = _fitting(dataset, support_of(model, dataset), config)
    model = started_from_data(start_key, model, dataset)
    config = dataclasses.replace(config, binarize=dataset.binarize)
    config = with_estimator(config, model, dataset)
    method = make_method(config, model, dataset, label_key)
    return Parts(config, dataset, model, *method)


def _load(config: TrainConfig, key: PRNGKey) -> Dataset:
    dataset = load(
        config.data,
        data_dir=config.data_dir,
        binarize="none" if config.binarize == "auto" else config.binarize,
        key=key if config.binarize == "static" else None,
        dequantize=config.dequantize,
        valid_size=config.valid_size,
        drop_empty=config.drop_empty,
        stream=config.stream,
    )
    if config.likelihood == "categorical" and dataset.num_categories is None:
        return dataset.as_categories()
    return dataset


def _fitting(dataset: Dataset, support: constraints.Constraint, config: TrainConfig) -> Dataset:
    """Adapt the data to the likelihood: with "auto", grey levels become bits for a Bernoulli."""
    bits = isinstance(support, type(constraints.boolean))
    grey = dataset.support is constraints.unit_interval
    if config.binarize == "auto" and grey and bits:
        dataset = dataclasses.replace(dataset, binarize="dynamic", support=constraints.boolean)
    require_support(dataset, support)
    return dataset


def from_json(values: dict[str, Any], where: Path) -> TrainConfig:
    """Build a configuration from the content of `config.json`.

    Raises:
        InputError: a value is unknown or missing, as in a file of another version or an edited one.
    """
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    if set(values) != names:
        odd = sorted(set(values) ^ names)
        raise InputError(f"config: {where} is not of this version of jaxvae: it differs in {odd}")
    as_tuples: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
    }
    return TrainConfig(**as_tuples)
