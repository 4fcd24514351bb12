"""A VAE whose prior is a learned mixture of normals."""

from collections.abc import Sequence

from jaxvae.checks import require_key, require_positive
from jaxvae.models.likelihoods import Likelihood, LikelihoodName
from jaxvae.models.posteriors import PosteriorName
from jaxvae.models.priors import MixturePrior, prior_rngs, require_real_latents
from jaxvae.models.vae import VAE, vae
from jaxvae.networks import Activation, DenseName, Initializer
from jaxvae.types import PRNGKey


def gmvae(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    latent_dim: int = 10,
    num_components: int = 500,
    learn_weights: bool = False,
    hidden: Sequence[int] = (300, 300),
    network: DenseName = "mlp",
    activation: Activation | None = "elu",
    initializer: Initializer = "fan_in_uniform",
    likelihood: LikelihoodName | Likelihood = "bernoulli",
    posterior: PosteriorName = "diagonal",
) -> VAE:
    """Return a VAE with `p(z) = sum_c w[c] N(loc[c], diag(variance[c]))` of learned means and variances.

    KL(q(z|x) || p(z)) has no closed form: use `jv.elbo(kl="monte_carlo")`, or `kl="entropy"`, in
    which the entropy of q is exact. The networks are those of `vae` with the same key and options.

    Args:
        key: one typed key, for the initial values.
        event_shape: shape of one example, without a batch axis.
        latent_dim: D, the size of z.
        num_components: C.
        learn_weights: whether w is learned too; if not, `w = 1 / C`.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        network: the type of the hidden layers, see `vae`; "gated" needs activation=None.
        activation: the nonlinearity.
        initializer: how the networks' initial weights are drawn, see `jaxvae.networks.linear`.
        likelihood: p(x|z), a name or a module, see `jaxvae.models.likelihoods`.
        posterior: the family of q(z|x), see `vae`; only those over real latents.

    Returns:
        A model: a pytree that can be passed to `jax.jit`, `jax.grad` and optax.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> import jax
    >>> model = gmvae(jax.random.key(0), (8, 8), latent_dim=2, num_components=5)
    >>> model.prior().loc.shape
    (5, 2)

    Source: Stanford CS236 (2018), problem set 2, problem 2, also for the default values.
    """
    require_key(key)
    require_positive(latent_dim=latent_dim, num_components=num_components)
    require_real_latents(posterior)
    return vae(
        key,
        event_shape,
        latent_dim=latent_dim,
        hidden=hidden,
        network=network,
        activation=activation,
        initializer=initializer,
        likelihood=likelihood,
        posterior=posterior,
        prior=MixturePrior(
            latent_dim, num_components, learn_weights=learn_weights, rngs=prior_rngs(key)
        ),
    )
