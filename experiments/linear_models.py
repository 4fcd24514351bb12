"""Linear-Gaussian models and mixtures: closed form, EM and gradients reach the numbers of other libraries.

Claim: on iris (150 x 4), pPCA with two latents has a total log-likelihood of -404.96278 nats in closed form; EM reaches it
to 1e-5, a linear VAE by gradient to 1e-2 nats an example. Three full Gaussians reach -180.18548 by EM. On scikit-learn's digits,
EM of factor analysis ends in a maximum that scikit-learn keeps, to 1e-3 nats an example, and that is better than the one of its
own start. Linear VAEs with a Laplace prior recover a mixing as FastICA does (Amari index below 0.05) if q can follow the mixing:
a q of independent entries can where the columns are orthogonal, and fails where they are oblique.

    python experiments/linear_models.py

Protocol: iris and the digits as scikit-learn embeds them, not scaled; the digits less the pixels whose variance is below 0.1.
EM from `initialized`, mixtures from the best of ten runs of k-means. Gradients: Adam 3e-2 with a cosine to zero, 4,000 steps of
all examples, 4 samples. ICA: 2,000 draws of three Laplace sources, noise 0.1.
Source: Tipping and Bishop (1999), "Probabilistic principal component analysis"; Lucas et al. (2019), "Don't blame the ELBO!";
Rubin and Thayer (1982), "EM algorithms for ML factor analysis".

Measured (two busy cores of an AMD EPYC, JAX 0.10.2; 81 s of processor time, oracle in brackets): pPCA -404.96283 in closed form,
-404.96274 by EM, -404.96439 by gradient with an ELBO of -404.959 [-404.96278], principal angle 0.15 degrees. With the noise held
at 0.15, Var E[z|x] 0.965, 0.376, 0.00002 [0.964, 0.378, 0]. Mixture -180.18549 by EM, -180.18546 by gradient. Factor analysis
-133.62366 an example, by gradient M-steps -133.62354 [-133.62353; from its own start -133.65964]. Amari indices, orthogonal:
0.018 with Laplace q, 0.021 with full covariance [0.019]; oblique: 0.550 and 0.021 [0.028]. Largest fall in a half step:
1.2e-4 of 405 nats, float32's rounding.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA, FactorAnalysis, FastICA
from sklearn.mixture import GaussianMixture

import jaxvae as jv
from jaxvae.inference import em

PPCA, MIXTURE = -404.96278, -180.18548


def main() -> None:
    """Fit all of them and print each number beside its oracle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--total-steps", type=int, default=4_000, help="of the gradient runs")
    parser.add_argument("--em-steps", type=int, default=500, help="at most, of EM")
    args = parser.parse_args()
    begin = time.time()
    print(f"{'':52s}{'jaxvae':>14s}{'oracle':>14s}")
    for part in (ppca, mixtures, factor_analysis, ica):
        for name, ours, oracle in part(args.total_steps, args.em_steps):
            print(f"{name:52s}{ours:14.5f}{oracle:14.5f}", flush=True)
    print(f"{time.time() - begin:.0f} s")


Line = tuple[str, float, float]


def ppca(total_steps: int, em_steps: int) -> Iterator[Line]:
    """Closed form, EM, gradient descent, and the collapse of a latent."""
    xs = load_iris().data.astype(np.float32)
    best = jv.models.fit_ppca(xs, 2)
    yield "iris, pPCA k=2, closed form: log p", log_evidence(best, xs), PPCA
    start = jv.models.ppca(jax.random.key(0), (4,), latent_dim=2)
    start = start.initialized(jax.random.key(1), xs)
    _, history = em(start, xs, num_steps=em_steps, tolerance=None)
    yield f"  EM, {len(history)} steps: log p", history[-1].log_evidence, PPCA
    yield "  EM, nats an example below", (PPCA - history[-1].log_evidence) / len(xs), 0.0
    falls = np.diff([value for r in history for value in (r.after_e, r.after_m)])
    yield "  largest fall in a half step, nats", max(0.0, -float(falls.min())), 0.0
    model = train(start, xs, partial(jv.elbo, num_samples=4), total_steps)
    yield "  linear VAE by gradient: log p", log_evidence(model, xs), PPCA
    keys = jax.random.split(jax.random.key(0), len(xs))
    one = partial(jv.elbo, num_samples=100, kl="monte_carlo")
    elbo = jax.vmap(one, (0, None, 0))(keys, model, jnp.asarray(xs)).bound
    yield "  its ELBO", float(jnp.sum(elbo)), PPCA
    yield (
        "  largest principal angle, degrees",
        angle(model.weight[...], PCA(2).fit(xs).components_.T),
        0.0,
    )
    eigenvalues = np.linalg.eigvalsh(np.cov(xs.T, ddof=0))[::-1]
    start = jv.models.ppca(jax.random.key(0), (4,), latent_dim=3, variance=0.15)
    model = train(
        start.initialized(jax.random.key(1), xs), xs, partial(jv.elbo, num_samples=4), total_steps
    )
    means = jax.vmap(lambda x: model.posterior(x).mean)(xs)
    for eigenvalue, active in zip(eigenvalues, np.sort(np.var(means, axis=0))[::-1], strict=False):
        exact = max(0.0, 1 - 0.15 / eigenvalue)
        yield f"  noise .15, eigenvalue {eigenvalue:.3f}: Var E[z|x]", float(active), exact


def mixtures(total_steps: int, em_steps: int) -> Iterator[Line]:
    """EM of three full covariances; its gradient path by enumeration."""
    xs = load_iris().data.astype(np.float32)
    start = jv.models.gaussian_mixture(jax.random.key(0), (4,), num_components=3)
    start = start.initialized(jax.random.key(1), xs)
    _, history = em(start, xs, num_steps=em_steps, tolerance=1e-7)
    yield f"iris, 3 Gaussians, EM, {len(history)} steps: log p", history[-1].log_evidence, MIXTURE
    theirs = GaussianMixture(3, tol=1e-8, max_iter=500, reg_covar=1e-12, random_state=0).fit(xs)
    yield "  scikit-learn's from its own k-means", history[-1].log_evidence, theirs.score(xs) * 150
    model = train(start, xs, partial(jv.elbo, gradient="enumerate"), total_steps)
    yield "  by gradient, z enumerated", log_evidence(model, xs), MIXTURE


def factor_analysis(total_steps: int, em_steps: int) -> Iterator[Line]:
    """EM in closed form and by gradient M-steps, digits."""
    xs = load_digits().data.astype(np.float32)
    xs = xs[:, xs.var(0) > 0.1]
    start = jv.models.factor_analysis(jax.random.key(0), xs.shape[1:], latent_dim=8)
    start = start.initialized(jax.random.key(1), xs)
    wide = xs.astype(np.float64)
    oracle = partial(FactorAnalysis, 8, tol=1e-3, max_iter=5000, svd_method="lapack")
    model, history = em(start, xs, num_steps=em_steps, tolerance=1e-7)
    best = oracle(noise_variance_init=np.float64(model.noise)).fit(wide).score(wide)
    name = f"digits, 8 factors, EM, {len(history)} steps: log p each"
    yield name, history[-1].log_evidence / len(xs), best
    own = oracle().fit(wide).score(wide)
    yield "  scikit-learn's from its own start", history[-1].log_evidence / len(xs), own
    _, history = em(start, xs, num_steps=em_steps, tolerance=None, optimizer=optax.adam(1e-2))
    yield "  M-steps of 10 updates of Adam", history[-1].log_evidence / len(xs), best


def ica(total_steps: int, em_steps: int) -> Iterator[Line]:
    """Amari indices beside FastICA's; q of independent entries fails where columns are oblique."""
    rng = np.random.default_rng(0)
    oblique = np.array([[1.0, 0.6, -0.2], [0.3, 1.0, 0.5], [-0.4, 0.2, 1.0]])
    for name, mixing in (("orthogonal", np.linalg.qr(oblique)[0]), ("oblique", oblique)):
        xs = rng.laplace(size=(2_000, 3)) @ mixing.T + 0.1 * rng.normal(size=(2_000, 3))
        xs = xs.astype(np.float32)
        oracle = FastICA(3, random_state=0, whiten="unit-variance").fit(xs).mixing_
        fast = float(jv.models.amari_index(oracle, mixing))
        for posterior in ("laplace", "full_covariance"):
            start = jv.models.ica(jax.random.key(0), (3,), latent_dim=3, posterior=posterior)
            start = start.initialized(jax.random.key(2), xs)
            model = train(start, xs, partial(jv.elbo, num_samples=4, kl="entropy"), total_steps)
            index = float(jv.models.amari_index(model.weight[...], mixing))
            yield f"{name} Laplace sources, q {posterior}: Amari", index, fast


def train(model: jv.Model, xs: np.ndarray, objective: Callable, total_steps: int) -> jv.Model:
    """Adam on all examples at once, the rate on a cosine to zero."""
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, total_steps))
    step = jv.training.make_step(objective, optimizer)
    state = jv.training.init(jax.random.key(7), model, optimizer)

    @jax.jit
    def run(state: jv.training.TrainState, xs: jax.Array) -> jv.training.TrainState:
        return jax.lax.scan(lambda s, _: (step(s, xs)[0], None), state, length=total_steps)[0]

    return run(state, jnp.asarray(xs)).model


def log_evidence(model: jv.Model, xs: np.ndarray) -> float:
    """Total log-likelihood, nats."""
    return float(jnp.sum(jax.vmap(model.log_evidence)(jnp.asarray(xs))))


def angle(a: jax.Array, b: np.ndarray) -> float:
    """Largest principal angle between the column spaces, degrees."""
    a, b = (np.linalg.qr(np.float64(m))[0] for m in (a, b))
    return float(np.degrees(np.arccos(np.clip(np.linalg.svd(a.T @ b)[1], -1, 1))).max())


if __name__ == "__main__":
    main()
