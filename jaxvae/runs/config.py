"""The configuration of a run, and what it stands for: data, model, objective, optimiser."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import optax
from numpyro.distributions import constraints

from jaxvae import objectives
from jaxvae.data import Dataset, load, require_support
from jaxvae.models.likelihoods import LikelihoodName
from jaxvae.models.posteriors import PosteriorName
from jaxvae.networks import Activation, Initializer
from jaxvae.runs.models import (
    ModelName,
    can_differentiate_latents,
    has_closed_kl,
    make_model,
    support_of,
    traced,
    with_defaults,
)
from jaxvae.sampling import KL
from jaxvae.training import learning_rate_schedule, linear_warmup, make_step
from jaxvae.training.schedules import Decay, require_within
from jaxvae.training.step import Step
from jaxvae.types import InputError, Model, Objective, PRNGKey, require_positive

Binarize: TypeAlias = Literal["auto", "dynamic", "static", "threshold", "none"]


MODEL_OPTIONS = (
    "latent_dim",
    "hidden",
    "activation",
    "initializer",
    "likelihood",
    "posterior",
    "num_categories",
)
"""The values of a configuration that are options of its model."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What a run is made of. Every value, defaults included, is written to its `config.json`."""

    data: str = "digits"
    """What to learn: `digits` (comes with jaxvae), a .npy or .npz file, a folder of IDX files, or the
    name of a TFDS image set such as `mnist`."""
    data_dir: str | None = None
    """Where prepared TFDS sets lie (TFDS's own default if not given)."""
    binarize: Binarize = "auto"
    """How grey levels become bits: `dynamic` draws them anew every step, `static` once, `threshold`
    compares with one half, `none` leaves them; `auto` is dynamic for grey levels under a Bernoulli,
    none otherwise."""
    valid_size: int | None = None
    """How many training examples to hold out for validation (if not given, the set's own split, or
    else a tenth); 0 trains on all of them and keeps no best checkpoint."""

    model: ModelName = "vae"
    """What p(z), q(z|x) and p(x|z) are. Each model has options of its own among those that follow;
    one that is not given takes the model's default, and one that it does not have is refused."""
    latent_dim: int | None = None
    """Size of the latent z."""
    hidden: tuple[int, ...] | None = None
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    activation: Activation | None = None
    """What follows each hidden layer."""
    initializer: Initializer | None = None
    """How the initial weights are drawn; `fan_in_uniform` is what PyTorch's linear layers do."""
    likelihood: LikelihoodName | None = None
    """What x is made of."""
    posterior: PosteriorName | None = None
    """What q(z|x) is, with the prior that belongs to it."""
    num_categories: int | None = None
    """Classes of each latent of a categorical posterior."""

    objective: Literal["elbo", "iwae"] = "elbo"
    """The bound to maximise."""
    num_samples: int = 1
    """K, how many samples of z each example gets."""
    kl: KL | None = None
    """How the ELBO's rate is computed: its closed form, the closed form of the entropy, or samples.
    If not given, the closed form where the model has one, else samples; the run writes down which."""
    gradient: str | None = None
    """The gradient estimator, such as pathwise, stl, dreg, score, vimco, rws or enumerate. If not
    given, pathwise; for latents that have no path, the exact sum (or vimco, under iwae)."""
    free_bits: float = 0.0
    """Nats of each latent that cost the ELBO nothing more."""
    beta: float = 1.0
    """Weight of the rate in the ELBO that training ascends; reports stay unweighted."""
    kl_warmup_steps: int = 0
    """Steps over which that weight rises from 0 to beta."""

    batch_size: int = 128
    """Examples a step."""
    total_steps: int = 5000
    """Length of the run."""
    learning_rate: float = 1e-3
    """Adam's step size, at its highest."""
    learning_rate_decay: Decay = "constant"
    """What the learning rate does after its warm-up: stays, or falls to 0 by the end."""
    learning_rate_warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    eval_every_steps: int | None = None
    """Steps between evaluations, each of which writes metrics and a checkpoint (if not given, a
    twentieth of the run)."""
    test_num_samples: int = 1000
    """K of the importance-weighted estimate on the test split when training ends."""
    seed: int = 0
    """Where all randomness comes from."""

    def resolved(self) -> "TrainConfig":
        """Check every value and fill in the defaults that follow from others.

        Raises:
            InputError: a value is out of its range, or has no effect beside the others.
        """
        require_positive(
            num_samples=self.num_samples,
            batch_size=self.batch_size,
            total_steps=self.total_steps,
            test_num_samples=self.test_num_samples,
        )
        if self.seed < 0:
            raise InputError(f"seed: expected an integer of at least 0, got {self.seed}")
        if not 0 <= self.beta < float("inf"):
            raise InputError(f"beta: expected a finite number of at least 0, got {self.beta}")
        require_within("kl_warmup_steps", self.kl_warmup_steps, self.total_steps)
        self.learning_rates()
        if self.objective == "iwae":
            self._refuse_without_effect(
                "the importance-weighted bound has no separate rate",
                "free_bits",
                "beta",
                "kl_warmup_steps",
                "kl",
            )
        if self.beta == 0:
            self._refuse_without_effect("it rises to beta = 0", "kl_warmup_steps")
        every = self.eval_every_steps
        if every is None:
            every = max(1, self.total_steps // 20)
        if not 1 <= every <= self.total_steps:
            raise InputError(
                f"eval_every_steps: expected 1 to {self.total_steps}, the length of the run, "
                f"got {every}"
            )
        resolved = with_defaults(self, MODEL_OPTIONS)
        return dataclasses.replace(resolved, eval_every_steps=every)

    def _refuse_without_effect(self, why: str, *names: str) -> None:
        for name in names:
            default = type(self).__dataclass_fields__[name].default
            if (value := getattr(self, name)) != default:
                raise InputError(
                    f"{name}: has no effect here, because {why}; got {value}, leave it out"
                )

    def learning_rates(self) -> optax.Schedule:
        """The learning rate as a function of the step."""
        return learning_rate_schedule(
            self.learning_rate,
            self.total_steps,
            warmup_steps=self.learning_rate_warmup_steps,
            decay=self.learning_rate_decay,
        )

    def keys(self) -> tuple[PRNGKey, PRNGKey, PRNGKey, PRNGKey]:
        """The keys of the initial weights, the run, the data and the evaluation."""
        weights, run, data, evaluation = jax.random.split(jax.random.key(self.seed), 4)
        return weights, run, data, evaluation


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a configuration stands for, built and checked."""

    config: TrainConfig
    dataset: Dataset
    model: Model
    objective: Objective
    optimizer: optax.GradientTransformation
    step: Step


def build(config: TrainConfig) -> Parts:
    """Load the data and build the model, objective, optimiser and step of a configuration.

    Returns:
        The parts, with the configuration resolved: `parts.config` has no open default.

    Raises:
        InputError: a value is not usable, or the data do not fit the likelihood.
    """
    config = config.resolved()
    weights_key, _, data_key, _ = config.keys()
    dataset = _load(config, data_key)
    rows = len(dataset.splits["train"]["x"])
    if config.batch_size > rows:
        raise InputError(
            f"batch_size: expected at most {rows}, the size of the training split of "
            f"{dataset.name}, got {config.batch_size}"
        )
    model = make_model(weights_key, config, MODEL_OPTIONS, dataset)
    dataset = _fitting(dataset, support_of(model, dataset), config)
    config = dataclasses.replace(config, binarize=dataset.binarize)
    config = _with_estimator(config, model, dataset)
    objective, schedules = _objective(config)
    # What the objective would refuse when it is traced is refused before anything is written.
    key = jax.random.key(0)  # shapes alone are computed: no draw is made
    traced(lambda m, x: objective(key, m, x), model, dataset)
    optimizer = optax.adam(config.learning_rates())
    step = make_step(objective, optimizer, schedules=schedules)
    return Parts(config, dataset, model, objective, optimizer, step)


def _load(config: TrainConfig, key: PRNGKey) -> Dataset:
    return load(
        config.data,
        data_dir=config.data_dir,
        binarize="none" if config.binarize == "auto" else config.binarize,
        key=key if config.binarize == "static" else None,
        valid_size=config.valid_size,
    )


def _fitting(dataset: Dataset, support: constraints.Constraint, config: TrainConfig) -> Dataset:
    """The data as the likelihood needs them: under "auto", grey levels become bits for a Bernoulli."""
    bits = isinstance(support, type(constraints.boolean))
    grey = dataset.support is constraints.unit_interval
    if config.binarize == "auto" and grey and bits:
        dataset = dataclasses.replace(dataset, binarize="dynamic", support=constraints.boolean)
    require_support(dataset, support)
    return dataset


def _with_estimator(config: TrainConfig, model: Model, dataset: Dataset) -> TrainConfig:
    """Fill in how rate and gradient are computed, by what the model's latents allow."""
    gradient, kl = config.gradient, config.kl
    if gradient is None:
        discrete = "vimco" if config.objective == "iwae" else "enumerate"
        gradient = "pathwise" if can_differentiate_latents(model, dataset) else discrete
    if kl is None and config.objective == "elbo":
        kl = "analytic" if has_closed_kl(model, dataset) else "monte_carlo"
    return dataclasses.replace(config, gradient=gradient, kl=kl)


def _objective(config: TrainConfig) -> tuple[Objective, dict[str, optax.Schedule]]:
    assert config.gradient is not None
    if config.objective == "iwae":
        iwae = partial(objectives.iwae, num_samples=config.num_samples, gradient=config.gradient)
        return iwae, {}
    assert config.kl is not None  # filled in by `_with_estimator`
    elbo = partial(
        objectives.elbo,
        num_samples=config.num_samples,
        kl=config.kl,
        gradient=config.gradient,
        free_bits=config.free_bits,
    )
    if config.kl_warmup_steps == 0:
        return partial(elbo, beta=config.beta), {}
    warmup = linear_warmup(config.kl_warmup_steps, config.total_steps, end=config.beta)
    # Validation is on the scale that training ends at, whatever the step: full weight.
    return partial(elbo, beta=config.beta), {"beta": warmup}


def from_json(values: dict[str, Any], where: Path) -> TrainConfig:
    """A configuration from what `config.json` holds.

    Raises:
        InputError: the file is of another version or was edited: a value is unknown or missing.
    """
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    if set(values) != names:
        odd = sorted(set(values) ^ names)
        raise InputError(f"config: {where} is not of this version of jaxvae: it differs in {odd}")
    as_tuples: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
    }
    return TrainConfig(**as_tuples)
