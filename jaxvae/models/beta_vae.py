"""The beta-VAE: a VAE trained with the rate weighted by beta."""

import functools
from typing import Any

from jaxvae.models.vae import VAE, vae


@functools.wraps(vae, assigned=("__annotations__",))
def beta_vae(*args: Any, **options: Any) -> VAE:
    """Return a VAE to be trained with `jv.elbo(..., beta=beta)`; p and q are those of `vae` and do not involve beta.

    `objective = -(distortion + beta * rate)`, while `bound` stays the ELBO. The command line takes
    `--beta`, 4 by default for this model.

    Args:
        *args: as for `vae`.
        **options: as for `vae`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import jaxvae as jv
    >>> model = beta_vae(jax.random.key(0), (4,), latent_dim=2, hidden=(8,))
    >>> terms = jv.elbo(jax.random.key(1), model, jnp.ones(4), beta=4.0)
    >>> bool(jnp.allclose(terms.objective, -(terms.distortion + 4 * terms.rate)))
    True

    Source: Higgins et al. (2017), "beta-VAE: learning basic visual concepts with a constrained
    variational framework".
    """
    return vae(*args, **options)
