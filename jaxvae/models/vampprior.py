"""A VAE whose prior is a mixture of its own posteriors at learned pseudo-inputs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float, Real
from numpyro.distributions import constraints
from numpyro.distributions.constraints import Constraint

from jaxvae.checks import require_positive
from jaxvae.distributions import DiagonalNormalMixture, Levels
from jaxvae.models.likelihoods import Likelihood, LikelihoodName, make_likelihood
from jaxvae.models.posteriors import Diagonal
from jaxvae.models.priors import prior_rngs
from jaxvae.models.vae import VAE, vae
from jaxvae.networks import Activation, DenseName, Initializer
from jaxvae.types import AnyArray, InputError, PRNGKey

EDGE = 0.01
"""The least distance of given pseudo-inputs from the ends of their range; those nearer are moved inwards."""


class Range(NamedTuple):
    """A range of pseudo-inputs: the map from the reals, its inverse, the moments of initial draws, and the ends."""

    squash: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    mean: float
    scale: float
    lowest: float = -np.inf
    highest: float = np.inf


def _inverse_softplus(u: Array) -> Array:
    return u + jnp.log(-jnp.expm1(-u))


UNIT = Range(jax.nn.sigmoid, jax.scipy.special.logit, 0.05, 0.01, 0.0, 1.0)
REALS = Range(lambda u: u, lambda u: u, 0.0, 1.0)
POSITIVE = Range(jax.nn.softplus, _inverse_softplus, 1.0, 0.2, 0.0)

RANGES: tuple[tuple[Constraint, Range], ...] = (
    (constraints.boolean, UNIT),
    (constraints.unit_interval, UNIT),
    (constraints.open_interval(0.0, 1.0), UNIT),
    (constraints.real, REALS),
    (constraints.positive, POSITIVE),
    (constraints.nonnegative, POSITIVE),
    (constraints.nonnegative_integer, POSITIVE),
)
"""The supports of x for which pseudo-inputs exist; a pseudo-input may lie between the values of x."""


class PseudoInputs(nnx.Module):
    """C learned pseudo-inputs in the range of the data: between 0 and 1, above 0, or any reals.

    Args:
        values: the initial pseudo-inputs [C, *event], within the range.
        support: the support of one value of x.

    Raises:
        InputError: the support has no range, or values lie outside of it.
    """

    def __init__(self, values: Float[Array, "C *event"], support: Constraint):
        self.range = range_of(support)
        low, high = self.range.lowest, self.range.highest
        if not bool(jnp.all((values >= low) & (values <= high))):
            raise InputError(
                f"pseudo_inputs: expected values in [{low:g}, {high:g}], where the likelihood has x, "
                f"got some from {float(jnp.min(values)):g} to {float(jnp.max(values)):g}"
            )
        self.raw = nnx.Param(self.range.inverse(jnp.clip(values, low + EDGE, high - EDGE)))

    def __call__(self) -> Float[Array, "C *event"]:
        """Return the pseudo-inputs."""
        return self.range.squash(self.raw[...])


def range_of(support: Constraint) -> Range:
    """Return the range of pseudo-inputs for data with this support.

    Raises:
        InputError: the support has no range, as for class numbers, which cannot vary smoothly.
    """
    if isinstance(support, Levels):
        return UNIT
    for known, found in RANGES:
        if support is known or support == known:
            return found
    raise InputError(
        "likelihood: expected one of bits, of values in [0, 1], of reals or of counts, whose "
        f"pseudo-inputs can vary smoothly, got one of support {support}; use jv.models.gmvae"
    )


class VampPriorVAE(VAE):
    """A VAE with `p(z) = 1/C sum_c q(z|u[c])`, u learned; q(z|x) is normal with independent entries."""

    def __init__(
        self,
        encoder: Callable[[Array], Array],
        decoder: Callable[[Array], Array],
        output: Likelihood,
        *,
        latent_dim: int,
        event_shape: tuple[int, ...],
        pseudo_inputs: PseudoInputs,
    ):
        super().__init__(encoder, decoder, output, latent_dim=latent_dim, event_shape=event_shape)
        self.pseudo_inputs = pseudo_inputs

    def prior(self) -> dist.Distribution:
        """p(z), from one pass of the pseudo-inputs through the encoder, independent of the batch."""
        q: Any = jax.vmap(self.posterior)(self.pseudo_inputs())
        loc, scale = q.base_dist.loc, q.base_dist.scale
        return DiagonalNormalMixture(jnp.zeros(loc.shape[0]), loc, scale)


def vampprior(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    latent_dim: int = 40,
    num_pseudo_inputs: int = 500,
    pseudo_inputs: Real[AnyArray, "C *event"] | None = None,
    hidden: Sequence[int] = (300, 300),
    network: DenseName = "mlp",
    activation: Activation | None = None,
    initializer: Initializer = "glorot_uniform",
    likelihood: LikelihoodName | Likelihood = "bernoulli",
) -> VampPriorVAE:
    """Return a VAE with `p(z) = 1/C sum_c q(z|u[c])`, a variational mixture of posteriors.

    The pseudo-inputs u are learned and pass through the same encoder as x. They stay in the range of
    the data: they are the sigmoid of learned reals for bits and values in [0, 1], the softplus for
    counts and positive values, and the reals themselves for reals. KL(q(z|x) || p(z)) has no closed
    form: use `jv.elbo(kl="monte_carlo")`, or `kl="entropy"`, in which the entropy of q is exact.

    Args:
        key: one typed key, for the initial values.
        event_shape: shape of one example, without a batch axis.
        latent_dim: D, the size of z.
        num_pseudo_inputs: C.
        pseudo_inputs: initial u [C, *event], such as C training examples, clipped to a distance of
            0.01 from the ends of the range. If not given, u is drawn: 0.05 +- 0.01 for bits and values
            in [0, 1], 1 +- 0.2 for counts and positive values, 0 +- 1 for reals.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        network: the type of the hidden layers, see `vae`; the source has "gated" ones.
        activation: the nonlinearity, tanh if not given; network="gated" takes none.
        initializer: how the initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: p(x|z), a name or a module, see `jaxvae.models.likelihoods`; not
            "categorical", since pseudo-inputs cannot vary smoothly between classes.

    Returns:
        A model: a pytree that can be passed to `jax.jit`, `jax.grad` and optax.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> model = vampprior(jax.random.key(0), (8, 8), latent_dim=2, num_pseudo_inputs=5)
    >>> model.pseudo_inputs().shape, model.prior().loc.shape
    ((5, 8, 8), (5, 2))

    Source: Tomczak and Welling (2018), "VAE with a VampPrior".
    Departs from the source: plain layers by default; a sigmoid, not a hard tanh, whose gradient is zero
    once a pseudo-input has left [0, 1], so that it never returns.
    """
    require_positive(latent_dim=latent_dim, num_pseudo_inputs=num_pseudo_inputs)
    range_of(make_likelihood(likelihood).support)
    plain = vae(
        key,
        event_shape,
        latent_dim=latent_dim,
        hidden=hidden,
        network=network,
        activation=activation,
        initializer=initializer,
        likelihood=likelihood,
    )
    assert isinstance(plain.family, Diagonal)
    shape = num_pseudo_inputs, *plain.event_shape
    if pseudo_inputs is None:
        within = range_of(plain.output.support)
        noise = jax.random.normal(prior_rngs(key).params(), shape)
        start = within.mean + within.scale * noise
        start = jnp.clip(start, within.lowest, within.highest)
    else:
        start = jnp.asarray(pseudo_inputs, jnp.float32)
    if start.shape != shape:
        raise InputError(
            f"pseudo_inputs: expected {shape}, num_pseudo_inputs examples of the event shape, "
            f"got shape {start.shape}"
        )
    return VampPriorVAE(
        plain.encoder,
        plain.decoder,
        plain.output,
        latent_dim=latent_dim,
        event_shape=plain.event_shape,
        pseudo_inputs=PseudoInputs(start, plain.output.support),
    )
