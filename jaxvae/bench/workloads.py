"""The workloads: training of five models, and the log-likelihood of one, on random bits of MNIST's shape."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxvae import models, objectives
from jaxvae.batching import unpack
from jaxvae.bench.blocks import block_of, in_blocks
from jaxvae.bench.loops import SHAPE, Loop, prepare_loop
from jaxvae.bench.products import Product, flop_of, products_of
from jaxvae.bench.turns import Run
from jaxvae.evaluation import log_likelihood
from jaxvae.evaluation.likelihood import _log_likelihood
from jaxvae.evaluation.streams import _batch
from jaxvae.networks import Precision, with_precision
from jaxvae.semi_supervised import semi_supervised
from jaxvae.training.blocks import compiler_options
from jaxvae.training.step import TrainState, init, make_step
from jaxvae.types import Model, Objective, PRNGKey

WorkloadName: TypeAlias = Literal[
    "vae", "iwae50", "conv_vae", "ssvae", "hierarchical", "evaluation", "iwae50_128"
]

ROWS, CLASSES, LABELLED = 60_000, 10, 100
CHUNK_SIZE = 100


class Job(NamedTuple):
    """A compiled workload."""

    run: Run
    batch_size: int
    """Examples per step."""
    compile_s: float
    """Seconds of tracing and compiling, without a cache."""
    memory_bytes: int
    """Memory of the compiled program, without its inputs and outputs."""
    products: Counter[Product]
    """Matrix products and convolutions of a step."""
    loop: Callable[[], Loop] | None = None
    """Compiles the library's own loop over the same step; None for evaluation."""


class Workload(NamedTuple):
    """A workload: its description, its default batch size, and the function that compiles it."""

    about: str
    batch_size: int
    prepare: Callable[[int, Array, Precision], Job]
    """(batch size, rows of bits, precision of the matrix products) -> the compiled workload."""


def draw_rows(rows: int = ROWS) -> Array:
    """Draw random bits, [N, 28, 28], with probability 0.3 of a 1: the time does not depend on their values."""
    return jax.random.bernoulli(jax.random.key(1), 0.3, (rows, *SHAPE)).astype(jnp.float32)


def training_job(model: Model, objective: Objective, batch_size: int, rows: Array) -> Job:
    """Compile blocks of the library's step with Adam, on consecutive slices of the rows; the state is donated."""
    optimizer = optax.adam(1e-3)
    step = make_step(objective, optimizer)
    starts = len(rows) - batch_size + 1
    first = init(jax.random.key(2), model, optimizer)
    products = products_of(step, first, rows[:batch_size])
    block = block_of(flop_of(products))

    @partial(jax.jit, donate_argnums=0)
    def loop(carry: tuple[TrainState, Array], rows: Array) -> tuple[TrainState, Array]:
        def one(_: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, _ = carry
            start = state.step * batch_size % starts
            state, metrics = step(state, jax.lax.dynamic_slice_in_dim(rows, start, batch_size))
            return state, metrics["loss"]

        return jax.lax.fori_loop(0, block, one, carry)

    carry = jax.tree.map(jnp.copy, first), jnp.zeros(())
    begin = time.perf_counter()
    compiled = loop.lower(carry, rows).compile(compiler_options())
    compile_s = time.perf_counter() - begin

    def dispatch() -> Array:
        nonlocal carry
        carry = compiled(carry, rows)
        return carry[1]

    return Job(
        in_blocks(block, dispatch),
        batch_size,
        compile_s,
        _memory(compiled),
        products,
        partial(prepare_loop, step, first, batch_size, len(rows)),
    )


def evaluation_job(model: Model, num_samples: int, batch_size: int, rows: Array) -> Job:
    """Compile `log_likelihood` of `batch_size` images; one call counts as a step."""
    xs, key = rows[:batch_size], jax.random.key(3)
    options = {"num_samples": num_samples, "chunk_size": CHUNK_SIZE}
    at_once = min(batch_size, max(1, 1000 // CHUNK_SIZE))
    arguments = (model, key, unpack(xs), jnp.arange(at_once))
    traced = partial(_batch, _log_likelihood, tuple(sorted(options.items())), None)
    begin = time.perf_counter()
    compiled = _batch.lower(*traced.args, *arguments).compile()
    compile_s = time.perf_counter() - begin
    batches = -(-batch_size // at_once)
    products = Counter({p: n * batches for p, n in products_of(traced, *arguments).items()})

    def run(steps: int) -> int:
        for _ in range(steps):
            log_likelihood(
                key, model, xs, num_samples=num_samples, chunk_size=CHUNK_SIZE, batch_size=at_once
            )
        return steps

    return Job(run, batch_size, compile_s, _memory(compiled), products)


class Layers(NamedTuple):
    """Sizes of a VAE on the images: encoder 784 - width - width - z, and the reverse as the decoder."""

    width: int
    latent_dim: int
    num_samples: int
    """K of the IWAE bound; 1 is the ELBO with its closed-form KL."""

    def build(self, key: PRNGKey) -> tuple[Model, Objective]:
        """Build the model and its objective."""
        hidden = (self.width, self.width)
        model = models.vae(key, SHAPE, latent_dim=self.latent_dim, hidden=hidden)
        if self.num_samples == 1:
            return model, objectives.elbo
        return model, partial(objectives.iwae, num_samples=self.num_samples)


LAYERS = {
    "vae": Layers(400, 20, 1),
    "iwae50": Layers(200, 50, 50),
    "iwae50_128": Layers(200, 50, 50),
}
"""The workloads that have twins in other libraries."""


def layers_job(layers: Layers, batch_size: int, rows: Array, precision: Precision) -> Job:
    """Compile the training of a VAE of these sizes."""
    model, objective = layers.build(jax.random.key(0))
    return training_job(with_precision(model, precision), objective, batch_size, rows)


def _conv_vae(batch_size: int, rows: Array, precision: Precision) -> Job:
    model = models.conv_vae(jax.random.key(0), SHAPE, latent_dim=16, channels=(32, 64))
    return training_job(with_precision(model, precision), objectives.elbo, batch_size, rows)


def _ssvae(batch_size: int, rows: Array, precision: Precision) -> Job:
    model = models.ssvae(jax.random.key(0), SHAPE, num_classes=CLASSES)
    labelled = {"labelled_x": rows[:LABELLED], "labelled_y": jnp.arange(LABELLED) % CLASSES}
    objective = partial(semi_supervised, **labelled)
    return training_job(with_precision(model, precision), objective, batch_size, rows)


def _hierarchical(batch_size: int, rows: Array, precision: Precision) -> Job:
    model = models.hierarchical(jax.random.key(0), SHAPE)
    objective = partial(objectives.elbo, kl="monte_carlo")
    return training_job(with_precision(model, precision), objective, batch_size, rows)


def _evaluation(
    batch_size: int, rows: Array, precision: Precision, *, num_samples: int = 5000
) -> Job:
    model, _ = LAYERS["iwae50"].build(jax.random.key(0))
    return evaluation_job(with_precision(model, precision), num_samples, batch_size, rows)


def _memory(compiled: Any) -> int:
    return int(compiled.memory_analysis().temp_size_in_bytes)


WORKLOADS: dict[str, Workload] = {
    "vae": Workload(
        "784-400-400-z20, tanh, closed-form KL, one sample", 128, partial(layers_job, LAYERS["vae"])
    ),
    "iwae50": Workload(
        "784-200-200-z50, tanh, IWAE with K = 50", 20, partial(layers_job, LAYERS["iwae50"])
    ),
    "conv_vae": Workload("4 x 4 convolutions, 32 and 64 channels, z16, ReLU", 128, _conv_vae),
    "ssvae": Workload(
        "M2, 784-300-300-z64, ELU, the exact sum over 10 classes, 100 labelled rows a step",
        100,
        _ssvae,
    ),
    "hierarchical": Workload(
        "784-200-200-h100-100-100-h50, tanh, one sample, Monte Carlo KL", 128, _hierarchical
    ),
    "evaluation": Workload(
        "log p(x) of the network of iwae50 with K = 5,000; a step is a call on all images",
        200,
        _evaluation,
    ),
    "iwae50_128": Workload(
        "iwae50 at a larger batch", 128, partial(layers_job, LAYERS["iwae50_128"])
    ),
}

DEFAULT = tuple(name for name in get_args(WorkloadName) if name != "iwae50_128")
"""The default workloads."""
