"""Losses of the encoder alone, added to any objective or in place of the bound.

The encoder of a VAE need not be trained by the bound. With a population pop(x), any encoder q(z|x),
its aggregate q(z) = E_pop q(z|x) and its inverse q(x|z) = pop(x) q(z|x) / q(z),

    E_pop E_q [log p(x, z) - log q(z|x)] = -H(x) - KL(q(z) || p(z)) - E_q(z) KL(q(x|z) || p(x|z))

so with the optimal prior q(z) and the optimal decoder q(x|z) the mean bound is -H(x), the maximum for
any model of x, whatever the encoder. The encoder may therefore be trained for another purpose.

Source: McAllester (2020), "Encoder autonomy".
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxvae.checks import is_known, require_key, require_number, require_weight
from jaxvae.distributions import analytic_kl, log_prob, require_event
from jaxvae.keys import OfExample, stream_key
from jaxvae.types import InputError, Model, Objective, PRNGKey, Scalar, Terms

EncoderLoss: TypeAlias = Callable[[PRNGKey, Model, Array], Float[Array, ""]]
"""`(key, model, x) -> scalar`, the loss of one example, nats, to be minimised."""


class _WithEncoderLoss(NamedTuple):
    """The objective `objective - weight * encoder_loss`, with the bound unchanged."""

    objective: Objective
    encoder_loss: EncoderLoss
    weight: Scalar

    def __call__(
        self, key: PRNGKey, model: Model, x: Float[Array, "*event"], **options: Any
    ) -> Terms | Float[Array, ""]:
        require_key(key)
        terms = self.objective(key, model, x, **options)
        loss = self.encoder_loss(
            stream_key(key, OfExample.ENCODER_LOSS, _depth(self.objective)), model, x
        )
        if jnp.shape(loss) != ():
            raise InputError(
                f"encoder_loss: expected a scalar for one example, got shape {jnp.shape(loss)}; "
                "sum over the latents"
            )
        if isinstance(terms, Terms):
            return terms._replace(objective=terms.objective - self.weight * loss)
        return terms - self.weight * loss


def with_encoder_loss(
    objective: Objective, encoder_loss: EncoderLoss, *, weight: Scalar = 1.0
) -> Objective:
    """Add an encoder loss to an objective.

    `objective' = objective - weight * encoder_loss`; `bound`, `distortion` and `rate` are unchanged to the
    last bit, since the loss draws from a separate key.

    Args:
        objective: `(key, model, x) -> Terms` or a scalar to ascend, for one example.
        encoder_loss: `(key, model, x) -> scalar`, the loss of one example, nats, to be minimised.
        weight: the factor on the loss.

    Returns:
        An objective with the options of `objective`, to which another loss can be added.

    Raises:
        InputError: the weight is not a finite number of at least 0; when called, the loss is not a
            scalar, or the objective is one of `jaxvae.coupled`, which takes many keys.

    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> objective = with_encoder_loss(jv.elbo, lambda key, model, x: jnp.asarray(2.0), weight=0.5)
    >>> terms = objective(jax.random.key(1), model, jnp.ones(4))
    >>> round(float(terms.bound - terms.objective), 4)
    1.0

    Source: McAllester (2020), "Encoder autonomy", last paragraph.
    """
    require_weight(weight=weight)
    # A Python number is hashable, so that the objective can be found among compiled ones.
    return _WithEncoderLoss(objective, encoder_loss, float(weight) if is_known(weight) else weight)


def autonomous_encoder(
    objective: Objective, encoder_loss: EncoderLoss, *, weight: Scalar = 1.0
) -> Objective:
    """Return an objective that trains the encoder by its own loss only, and decoder and prior by the bound.

    Unlike `with_encoder_loss`, the objective uses `posterior(x)` of a copy of the model with stopped
    gradients, so that its gradient does not reach the weights of the encoder. Weights that a decoder or
    prior shares with the encoder are still trained by it.

    Args:
        objective: `(key, model, x) -> Terms` or a scalar to ascend, which uses only `prior`,
            `posterior` and `likelihood` of the model.
        encoder_loss: `(key, model, x) -> scalar`, the loss of one example, nats, to be minimised.
        weight: the factor on the loss.

    Returns:
        An objective.

    Raises:
        InputError: the same cases as for `with_encoder_loss`; or the objective already has an encoder
            loss, which would have no effect.

    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> objective = autonomous_encoder(jv.elbo, noise_consistency)
    >>> gradient = jax.grad(lambda m: objective(jax.random.key(1), m, jnp.ones(4)).bound)(model)
    >>> [bool(jnp.any(layer.kernel[...])) for layer in (gradient.encoder.layers[0], gradient.decoder.layers[0])]
    [False, True]

    Source: McAllester (2020), "Encoder autonomy": the encoder is held fixed while the prior
    and the decoder are fitted.
    """
    if _depth(objective):
        raise InputError(
            "objective: expected one without an encoder loss, which the stopped encoder would not "
            "feel; add it afterwards: with_encoder_loss(autonomous_encoder(objective, a), b)"
        )
    return with_encoder_loss(partial(_with_stopped_encoder, objective), encoder_loss, weight=weight)


def noise_consistency(
    key: PRNGKey, model: Model, x: Float[Array, "*event"], *, dropped: float = 0.1
) -> Float[Array, ""]:
    """An encoder loss for robustness: the change of the posterior when random entries of x are set to 0.

    `KL(q(z|x') || q(z|x))`, where x' is x with each entry set to 0 with probability `dropped`. Add it to
    an objective that keeps the encoder informative, since alone it is minimised by a constant encoder.

    Args:
        key: one typed key, for the choice of entries.
        model: a model whose posteriors have a KL in closed form.
        x: one example.
        dropped: the probability that an entry is set to 0, in (0, 1).

    Returns:
        A scalar of at least 0, nats.

    Raises:
        InputError: the probability is out of its range, or the KL has no closed form.

    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> bool(noise_consistency(jax.random.key(1), model, jnp.ones(4), dropped=0.5) > 0)
    True

    Source: Sinha and Dieng (2021), "Consistency regularization for variational auto-encoders", its
    regulariser, with the masking noise of Vincent et al. (2008).
    Departs from the source: the bound of x' is not added.
    """
    require_number("dropped", dropped, above=0, below=1)
    kept = jax.random.bernoulli(key, 1 - dropped, x.shape)
    return analytic_kl(model.posterior(jnp.where(kept, x, jnp.zeros_like(x))), model.posterior(x))


def supervised_latents(
    key: PRNGKey,
    model: Model,
    x: Float[Array, "*event"],
    *,
    target: Callable[[Array], Float[Array, "D"]],
) -> Float[Array, ""]:
    """An encoder loss for supervision: the negative log-density of a target latent under the posterior.

    `-log q(target(x) | x)`, the cross-entropy of the posterior. The target is any function of x: a
    fixed projection, principal components, features of a trained network. It can be the only loss of
    the encoder, in `autonomous_encoder`; the bound then fits a density model to given features.

    Args:
        key: not used; every encoder loss has this argument.
        model: the model whose posterior is supervised.
        x: one example.
        target: x -> the target latent of x; no gradient flows into it.

    Returns:
        A scalar, nats; it may be below 0, since q is a density.

    Raises:
        InputError: the target does not have the latent's shape.

    >>> import jaxvae as jv
    >>> model = jv.models.vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> loss = supervised_latents(jax.random.key(1), model, jnp.ones(4), target=lambda x: x[:2])
    >>> bool(loss == -model.posterior(jnp.ones(4)).log_prob(jnp.ones(2)))
    True

    Source: the log-likelihood of regression; McAllester (2020), "Encoder autonomy", for its use here.
    """
    del key
    q, z = model.posterior(x), jax.lax.stop_gradient(target(x))
    require_event(q, z, "model.posterior(x)", "target(x)")
    return -log_prob(q, z)


class _StoppedEncoder(NamedTuple):
    """A model whose posterior passes no gradient to its parameters."""

    model: Model

    def prior(self) -> Distribution:
        return self.model.prior()

    def posterior(self, x: Array) -> Distribution:
        return jax.lax.stop_gradient(self.model).posterior(x)

    def likelihood(self, z: Array) -> Distribution:
        return self.model.likelihood(z)


def _with_stopped_encoder(
    objective: Objective, key: PRNGKey, model: Model, x: Array, **options: Any
) -> Terms | Array:
    return objective(key, _StoppedEncoder(model), x, **options)


def _depth(objective: Objective) -> int:
    """Return the number of encoder losses that an objective already has."""
    while isinstance(objective, partial):
        objective = objective.func
    return 1 + _depth(objective.objective) if isinstance(objective, _WithEncoderLoss) else 0
