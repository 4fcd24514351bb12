"""EM as a training step, for the same state, loop, checkpoints and metrics as gradient training."""

import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from jaxvae.batching import fill_absent, unpack
from jaxvae.inference.steps import MStep, make_update
from jaxvae.training.metrics import Metrics, batch_metrics
from jaxvae.training.step import Step, TrainState
from jaxvae.types import Batch, InputError


def make_em_step(
    model: PyTree,
    *,
    m_step: MStep | None = None,
    optimizer: optax.GradientTransformation | None = None,
    num_updates: int | None = None,
) -> Step:
    """Return the pure step of EM, to use in place of `make_step`: a batch is all the training rows.

    `loss = -mean_i F(q_i, model)` at the exact posteriors q_i, which is minus the mean log p(x_i) of the model
    before the step. A step on fewer rows is EM on these rows alone, which forgets the others.

        optimizer = optax.identity()                      # or the optimizer of a gradient M-step
        state = training.init(key, model, optimizer)
        step = training.make_em_step(model)
        training.fit(state, step, dataset, batch_size=N, total_steps=...)

    Args:
        model: a model of the class to train; its values do not matter.
        m_step: your own M-step, see `jaxvae.inference.em`.
        optimizer: for a gradient M-step, the optimizer that the state was made with.
        num_updates: gradient updates in each M-step; 10 by default.

    Returns:
        `step(state, batch) -> (state, metrics)`. The metrics are `loss`, `bound`, `distortion` and
        `rate` after the E-step, and `after_m`, the mean free energy after the M-step, nats.

    Raises:
        InputError: the model has no exact posterior or no M-step; when traced, if the batch has
            masks of values.

    Source: Dempster, Laird and Rubin (1977), "Maximum likelihood from incomplete data via the EM
    algorithm".
    """
    update = make_update(model, m_step=m_step, optimizer=optimizer, num_updates=num_updates)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        examples = fill_absent(unpack(batch))
        if examples.mask is not None:
            raise InputError("batch: EM takes whole examples, got a mask of their values")
        size = examples.x.shape[0]
        weights = jnp.ones(size) if examples.weight is None else examples.weight
        done = update(state.model, state.opt_state, examples.x, weights)
        metrics = batch_metrics(done.after_e, examples, after_m=done.after_m.bound)
        state = TrainState(done.model, done.opt_state, state.key, state.step + 1, state.running)
        return state, metrics

    return step
