"""A VAE whose prior is a normalising flow."""

from collections.abc import Sequence

from jaxvae.checks import require_key, require_positive
from jaxvae.models.likelihoods import Likelihood, LikelihoodName
from jaxvae.models.posteriors import PosteriorName
from jaxvae.models.priors import FlowName, FlowPrior, prior_rngs, require_real_latents
from jaxvae.models.vae import VAE, vae
from jaxvae.networks import Activation, DenseName, Initializer
from jaxvae.types import PRNGKey


def flow_prior_vae(
    key: PRNGKey,
    event_shape: Sequence[int],
    *,
    latent_dim: int = 16,
    num_flows: int = 4,
    flow: FlowName = "spline",
    flow_hidden: Sequence[int] = (64,),
    hidden: Sequence[int] = (256, 256),
    network: DenseName = "mlp",
    activation: Activation | None = None,
    initializer: Initializer = "lecun_normal",
    likelihood: LikelihoodName | Likelihood = "bernoulli",
    posterior: PosteriorName = "diagonal",
) -> VAE:
    """Return a VAE with `log p(z) = log N(f(z); 0, I) + log|det df/dz|`, f a chain of learned flows.

    KL(q(z|x) || p(z)) has no closed form: use `jv.elbo(kl="monte_carlo")`, or `kl="entropy"`, in
    which the entropy of q is exact. The networks are those of `vae` with the same key and options.

    Args:
        key: one typed key, for the initial weights.
        event_shape: shape of one example, without a batch axis.
        latent_dim: D, the size of z.
        num_flows: the number of flows in f.
        flow: "spline", couplings, cheap in both directions, for D and `num_flows` of 2 or more; or
            "masked_autoregressive", whose samples take D passes; see `jaxvae.models.priors.FlowPrior`.
        flow_hidden: widths of the hidden layers of each flow's network.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        network: the type of the hidden layers of encoder and decoder, see `vae`.
        activation: the nonlinearity, tanh if not given; network="gated" takes none.
        initializer: how the initial weights of encoder and decoder are drawn, see `jaxvae.networks.linear`.
        likelihood: p(x|z), a name or a module, see `jaxvae.models.likelihoods`.
        posterior: the family of q(z|x), see `vae`; only those over real latents.

    Returns:
        A model: a pytree that can be passed to `jax.jit`, `jax.grad` and optax.

    Raises:
        InputError: an argument is out of its range; the message names it.

    >>> import jax
    >>> model = flow_prior_vae(jax.random.key(0), (8, 8), latent_dim=2)
    >>> model.prior().sample(jax.random.key(1)).shape
    (2,)

    Source: Chen et al. (2017), "Variational lossy autoencoder", for an autoregressive flow as the
    prior; Durkan et al. (2019), "Neural spline flows".
    """
    require_key(key)
    require_positive(latent_dim=latent_dim, num_flows=num_flows)
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
        prior=FlowPrior(latent_dim, num_flows, flow=flow, hidden=flow_hidden, rngs=prior_rngs(key)),
    )
