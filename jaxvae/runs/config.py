"""The configuration of a run, and what it stands for: data, model, objective, optimiser."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxvae import models, objectives
from jaxvae.data import Dataset, load, require_support
from jaxvae.models.likelihoods import LikelihoodName
from jaxvae.networks import Activation, Initializer
from jaxvae.sampling import KL
from jaxvae.training import learning_rate_schedule, linear_warmup, make_step
from jaxvae.training.schedules import Decay, require_within
from jaxvae.training.step import Step
from jaxvae.types import InputError, Model, Objective, PRNGKey, require_positive

Binarize: TypeAlias = Literal["auto", "dynamic", "static", "threshold", "none"]


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

    latent_dim: int = 16
    """Size of the latent z."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    activation: Activation = "tanh"
    """What follows each hidden layer."""
    initializer: Initializer = "lecun_normal"
    """How the initial weights are drawn; `fan_in_uniform` is what PyTorch's linear layers do."""
    likelihood: LikelihoodName = "bernoulli"
    """What x is made of: bits, or reals with one learned variance."""

    objective: Literal["elbo", "iwae"] = "elbo"
    """The bound to maximise."""
    num_samples: int = 1
    """K, how many samples of z each example gets."""
    kl: KL = "analytic"
    """How the ELBO's rate is computed: its closed form, the closed form of the entropy, or samples."""
    gradient: str = "pathwise"
    """The gradient estimator: pathwise, stl, dreg, score, vimco or rws."""
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
            latent_dim=self.latent_dim,
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
        return dataclasses.replace(self, eval_every_steps=every)

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
    dataset, config = _load(config, data_key)
    rows = len(dataset.splits["train"]["x"])
    if config.batch_size > rows:
        raise InputError(
            f"batch_size: expected at most {rows}, the size of the training split of "
            f"{dataset.name}, got {config.batch_size}"
        )
    model = models.vae(
        weights_key,
        dataset.event_shape,
        latent_dim=config.latent_dim,
        hidden=config.hidden,
        activation=config.activation,
        initializer=config.initializer,
        likelihood=config.likelihood,
    )
    _require_composable(model, dataset, config)
    objective, schedules = _objective(config)
    optimizer = optax.adam(config.learning_rates())
    step = make_step(objective, optimizer, schedules=schedules)
    return Parts(config, dataset, model, objective, optimizer, step)


def _load(config: TrainConfig, key: PRNGKey) -> tuple[Dataset, TrainConfig]:
    from numpyro.distributions import constraints

    support = {"bernoulli": constraints.boolean, "gaussian": constraints.real}[config.likelihood]
    auto = config.binarize == "auto"
    dataset = load(
        config.data,
        data_dir=config.data_dir,
        binarize="none" if auto else config.binarize,
        key=key if config.binarize == "static" else None,
        valid_size=config.valid_size,
    )
    grey = dataset.support is constraints.unit_interval
    if auto and grey and support is constraints.boolean:
        dataset = dataclasses.replace(dataset, binarize="dynamic", support=constraints.boolean)
    require_support(dataset, support)
    return dataset, dataclasses.replace(config, binarize=dataset.binarize)


def _require_composable(model: Model, dataset: Dataset, config: TrainConfig) -> None:
    """Refuse before anything is written what the objective would refuse when it is traced."""
    objective, _ = _objective(config)
    x = jax.ShapeDtypeStruct(dataset.event_shape, jnp.float32)
    jax.eval_shape(objective, jax.eval_shape(jax.random.key, 0), model, x)


def _objective(config: TrainConfig) -> tuple[Objective, dict[str, optax.Schedule]]:
    if config.objective == "iwae":
        iwae = partial(objectives.iwae, num_samples=config.num_samples, gradient=config.gradient)
        return iwae, {}
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
    return TrainConfig(**{**values, "hidden": tuple(values["hidden"])})
