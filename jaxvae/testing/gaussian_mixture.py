"""A solvable model: a mixture of Gaussians as the prior of a linear-Gaussian decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from flax import nnx
from jaxtyping import Array, Float

from jaxvae.checks import require_positive
from jaxvae.distributions import log_prob
from jaxvae.testing.linear_gaussian import Affine, affine_encoder, parameters


class GaussianMixture(Affine):
    """A model with `p(z) = sum_c pi_c N(z; mu_c, t_c^2 I)`, and p(x|z) and q(z|x) of `Affine`.

        log p(x) = log sum_c pi_c N(x; W mu_c + b, t_c^2 W W' + s^2 I)
        p(z|x)   = sum_c p(c|x) N(z; mu_c + G_c (x - W mu_c - b), t_c^2 (I - G_c W))
        G_c      = t_c^2 W' (t_c^2 W W' + s^2 I)^-1

    `decoder` also holds logits log pi_c [C], means mu [C, D] and log_scales log t [C].
    """

    def prior(self) -> dist.Distribution:
        """p(z), to which q has no closed-form KL divergence."""
        means = self.decoder.means[...]
        scales = jnp.broadcast_to(jnp.exp(self.decoder.log_scales[...])[:, None], means.shape)
        return self._mix(self.decoder.logits[...], dist.Normal(means, scales).to_event(1))

    def log_evidence(self, x: Float[Array, "E"]) -> Float[Array, ""]:
        """`log sum_c pi_c N(x; W mu_c + b, t_c^2 W W' + s^2 I)`, nats."""
        return jax.nn.logsumexp(self._log_joint(x))

    def exact_posterior(self, x: Float[Array, "E"]) -> dist.Distribution:
        """p(z|x), a mixture of C Gaussians."""

        def component(mean: Array, covariance: Array, spread: Array) -> tuple[Array, Array]:
            weight = self.decoder.weight[...]
            gain = jnp.linalg.solve(covariance, spread * weight).T
            residual = x - weight @ mean - self.decoder.bias[...]
            return mean + gain @ residual, spread * (jnp.eye(self.latent_dim) - gain @ weight)

        spreads = jnp.exp(2 * self.decoder.log_scales[...])
        means, covariances = jax.vmap(component)(
            self.decoder.means[...], self._covariances(), spreads
        )
        return self._mix(self._log_joint(x), dist.MultivariateNormal(means, covariances))

    def _covariances(self) -> Float[Array, "C E E"]:
        weight, spreads = self.decoder.weight[...], jnp.exp(2 * self.decoder.log_scales[...])
        return jax.vmap(lambda spread: spread * weight @ weight.T + self._noise())(spreads)

    def _log_joint(self, x: Array) -> Float[Array, "C"]:
        """`log p(c) + log p(x|c)`."""

        def log_p_x_c(mean: Array, covariance: Array) -> Array:
            center = self.decoder.weight[...] @ mean + self.decoder.bias[...]
            return log_prob(dist.MultivariateNormal(center, covariance), x)

        log_p_c = jax.nn.log_softmax(self.decoder.logits[...])
        return log_p_c + jax.vmap(log_p_x_c)(self.decoder.means[...], self._covariances())

    @staticmethod
    def _mix(logits: Array, components: dist.Distribution) -> dist.Distribution:
        return dist.MixtureSameFamily(dist.CategoricalLogits(logits), components)


def gaussian_mixture(
    seed: int = 0,
    *,
    event_size: int = 3,
    latent_dim: int = 1,
    num_components: int = 2,
    full: bool = False,
) -> GaussianMixture:
    """Return a model with a mixture prior and a single Gaussian as q(z|x).

    Args:
        seed: the seed of the parameters, drawn by NumPy.
        event_size: E.
        latent_dim: D; `exact_elbo` and `exact_iwae` need 1 or 2.
        num_components: C.
        full: whether q has a full covariance instead of a diagonal one.

    Returns:
        A model with `log_evidence`, `exact_posterior`, `exact_elbo` and `exact_iwae`.

    Raises:
        InputError: a size is below 1.

    >>> model, x = gaussian_mixture(), jnp.ones(3)
    >>> bool(model.exact_elbo(x).bound < model.exact_iwae(x, 5) < model.log_evidence(x))
    True
    """
    require_positive(event_size=event_size, latent_dim=latent_dim, num_components=num_components)
    rng = np.random.default_rng(seed)
    lower = 0.3 * np.tril(rng.normal(size=(latent_dim, latent_dim)), -1)
    encoder = affine_encoder(rng, event_size, lower, full=full)
    decoder: nnx.Dict = parameters(
        weight=rng.normal(size=(event_size, latent_dim)),
        bias=rng.normal(size=event_size),
        log_scale=-0.2,
        logits=0.5 * rng.normal(size=num_components),
        means=rng.normal(size=(num_components, latent_dim)),
        log_scales=-0.3 + 0.2 * rng.normal(size=num_components),
    )
    return GaussianMixture(encoder, decoder)
