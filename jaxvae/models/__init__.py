"""Models, one file a family: each reads as a declaration of p(z), q(z|x) and p(x|z)."""

from jaxvae.models.vae import VAE, vae

__all__ = ["VAE", "vae"]
