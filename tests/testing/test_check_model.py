"""`check_model` finds planted faults by their laws, and passes the models of the library and those of others."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import linen, nnx
from jax.custom_batching import custom_vmap
from numpyro.distributions import constraints

import jaxvae as jv
from jaxvae.distributions import FloatBernoulli
from tests.support.contracts import CONTRACTS
from tests.support.slow import one_of_each_kind, slow_but

XS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
check = partial(jv.testing.check_model, print_report=False, num_draws=4096)


@jax.tree_util.register_dataclass
@dataclass
class Linear:
    """p(z) = N(0, I), p(x|z) = N(A z, 1 / 4), q(z|x) = N(B x, scale^2): every fault is one change of it."""

    encoder: jax.Array
    decoder: jax.Array
    scale: jax.Array

    def prior(self):
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

    def posterior(self, x):
        return dist.Normal(self.encoder @ x, self.scale).to_event(1)

    def likelihood(self, z):
        return dist.Normal(self.decoder @ z, 0.5).to_event(1)


def arrays():
    draws = np.random.default_rng(1).normal(size=(2, 4, 2)).astype(np.float32)
    return jnp.asarray(draws[0].T), jnp.asarray(draws[1]), jnp.full(2, 0.6)


def planted(**methods):
    """The model with methods of a fault."""
    return jax.tree_util.register_dataclass(dataclass(type("Planted", (Linear,), methods)))(
        *arrays()
    )


class Diagonal(dist.Distribution):
    """Normals side by side, written out: the base of the densities that are wrong on purpose."""

    support = constraints.real_vector
    reparametrized_params = ["loc", "scale"]  # noqa: RUF012
    arg_constraints = {"loc": constraints.real_vector, "scale": constraints.real_vector}  # noqa: RUF012

    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale
        super().__init__((), jnp.shape(loc), validate_args=False)

    def noise(self, key):
        return jax.random.normal(key, self.event_shape)

    def sample(self, key, sample_shape=()):
        return self.loc + self.scale * self.noise(key)

    def each(self, value):
        return dist.Normal(self.loc, self.scale).log_prob(value)

    def log_prob(self, value):
        return jnp.sum(self.each(value))


class Mean(Diagonal):
    def log_prob(self, value):
        return jnp.mean(self.each(value))


class NotSummed(Diagonal):
    def log_prob(self, value):
        return self.each(value)


class WithoutLogDeterminant(Diagonal):
    """Of z = loc + scale * e, with the density of e."""

    def each(self, value):
        return dist.Normal(0.0, 1.0).log_prob((value - self.loc) / self.scale)


class Warped(Diagonal):
    """z[1] = exp(z[0]) e[1], whose log-determinant, z[0], can be left out."""

    log_determinant = 1.0

    def sample(self, key, sample_shape=()):
        z = super().sample(key)
        return z.at[1].multiply(jnp.exp(z[0]))

    def log_prob(self, value):
        unwarped = value.at[1].multiply(jnp.exp(-value[0]))
        return super().log_prob(unwarped) - self.log_determinant * value[0]


class WarpedWithout(Warped):
    log_determinant = 0.0


class Unnormalised(Diagonal):
    def each(self, value):
        return -0.5 * ((value - self.loc) / self.scale) ** 2 - jnp.log(self.scale)


class OneKeyTwice(Diagonal):
    def noise(self, key):
        return jnp.stack([jax.random.normal(key), jax.random.normal(key)])


class OtherScale(Diagonal):
    def noise(self, key):
        return 1.1 * super().noise(key)


class HalfPrecision(Diagonal):
    def each(self, value):
        return super().each(value).astype(jnp.bfloat16)


def q_of(family):
    return {"posterior": lambda self, x: family(self.encoder @ x, self.scale)}


def p_x_of(family):
    return {"likelihood": lambda self, z: family(self.decoder @ z, jnp.full(4, 0.5))}


def counting(self, x):
    """A posterior that moves with the number of its calls."""
    type(self).calls = getattr(type(self), "calls", 0) + 1
    return dist.Normal(self.encoder @ x + 0.01 * type(self).calls, self.scale).to_event(1)


@custom_vmap
def centred(h):
    return h


@centred.def_vmap
def _(axis_size, batched, h):
    del axis_size, batched
    return h - jnp.mean(h, axis=0, keepdims=True), True


def of_the_batch(self, x):
    return dist.Normal(centred(self.encoder @ x), self.scale).to_event(1)


def bits(self, x):
    return FloatBernoulli(logits=self.encoder @ x).to_event(1)


FAULTS = {
    "support": ("support", {"prior": lambda self: dist.Exponential(jnp.ones(2)).to_event(1)}),
    "support of x": (
        "support",
        {"likelihood": lambda self, z: dist.Beta(jnp.full(4, 2.0), 2.0).to_event(1)},
    ),
    "shape": ("one example", {"likelihood": lambda self, z: dist.Normal(self.decoder @ z, 0.5)}),
    "log-density of each value": ("one example", p_x_of(NotSummed)),
    "mean instead of sum": ("p(x|z) integrates to 1", p_x_of(Mean)),
    "missing log-determinant": ("q(z|x) integrates to 1", q_of(WithoutLogDeterminant)),
    "missing log-determinant of a warp": ("q(z|x) integrates to 1", q_of(WarpedWithout)),
    "key reuse": ("keys", q_of(OneKeyTwice)),
    "hidden state": ("nothing hidden", {"posterior": counting}),
    "wrong measure": ("one measure", {"posterior": bits}),
    "dtype": ("precision", q_of(HalfPrecision)),
    "unnormalised density": ("p(x|z) integrates to 1", p_x_of(Unnormalised)),
    "dependence on the batch": ("together = one by one", {"posterior": of_the_batch}),
    "draws of another scale": ("draws follow q(z|x)", q_of(OtherScale)),
}
FAST = (
    "support",
    "shape",
    "log-density of each value",
    "mean instead of sum",
    "hidden state",
    "wrong measure",
)


@pytest.mark.parametrize("name", slow_but(FAULTS, *FAST))
def test_a_planted_fault_is_found_by_its_law(name):
    law, methods = FAULTS[name]
    verdict = check(planted(**methods), XS)
    assert not verdict.passed
    # Others may follow from it, and come after it.
    assert verdict.failed[0].law == law, str(verdict)
    assert law in str(verdict)


@pytest.mark.slow
@pytest.mark.parametrize("methods", [{}, q_of(Diagonal), q_of(Warped), p_x_of(Diagonal)])
def test_the_same_model_without_a_fault_passes(methods):
    verdict = check(planted(**methods), XS)
    assert verdict.passed, str(verdict)
    assert not verdict.unchecked, str(verdict)


def test_a_layer_that_normalises_over_the_batch_is_hidden_state():
    class Normalised(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(1))

        prior, likelihood = Linear.prior, Linear.likelihood
        decoder = arrays()[1]

        def posterior(self, x):
            return dist.Normal(self.norm(self.layer(x)), 1.0).to_event(1)

    verdict = check(Normalised(), XS)
    assert "nothing hidden" in [finding.law for finding in verdict.failed], str(verdict)


def test_bad_input_is_named():
    with pytest.raises(jv.InputError, match="xs: expected at least two examples"):
        check(planted(), XS[:1])
    with pytest.raises(jv.InputError, match="xs: expected whole examples"):
        check(planted(), {"x": XS, "weight": np.ones(3)})
    with pytest.raises(jv.InputError, match="false_alarm"):
        check(planted(), XS, false_alarm=2.0)
    verdict = check(object(), XS)
    assert verdict.failed[0].said.startswith("the model has not all of")


# Models of others.


def equinox_model():
    equinox = pytest.importorskip("equinox", reason="no Equinox")

    class Model(equinox.Module):
        encoder: equinox.nn.MLP  # holds its activation, a function, among its leaves
        decoder: equinox.nn.MLP

        def prior(self):
            return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

        def posterior(self, x):
            loc, raw = jnp.split(self.encoder(x), 2)
            return dist.Normal(loc, jax.nn.softplus(raw)).to_event(1)

        def likelihood(self, z):
            return dist.Normal(self.decoder(z), 0.5).to_event(1)

    keys = jax.random.split(jax.random.key(0))
    mlp = partial(equinox.nn.MLP, width_size=5, depth=1)
    return Model(mlp(4, 4, key=keys[0]), mlp(2, 4, key=keys[1]))


def linen_model():
    network = linen.Dense(4)

    @jax.tree_util.register_dataclass
    @dataclass
    class Model:
        encoder: dict
        decoder: dict

        def prior(self):
            return dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 0.5], [0.5, 1.0]]))

        def posterior(self, x):
            loc, raw = jnp.split(network.apply(self.encoder, x), 2)
            return dist.Laplace(loc, jax.nn.softplus(raw)).to_event(1)

        def likelihood(self, z):
            return dist.StudentT(4.0, network.apply(self.decoder, z), 0.5).to_event(1)

    return Model(
        network.init(jax.random.key(0), jnp.zeros(4)), network.init(jax.random.key(1), jnp.zeros(2))
    )


class NumpyroModel:
    """A model and a guide in NumPyro's language, read off their traces."""

    def __init__(self):
        self.encoder, self.decoder, self.scale = map(np.asarray, arrays())

    def model(self):
        rate = numpyro.sample("z", dist.Gamma(jnp.full(2, 2.0), 1.0).to_event(1))
        numpyro.sample("x", dist.Normal(self.decoder @ rate, 0.5).to_event(1))

    def guide(self, x):
        q = dist.LogNormal(jnp.tanh(self.encoder @ x), self.scale).to_event(1)
        numpyro.sample("z", q)

    def site(self, name, program, *args, **values):
        seeded = numpyro.handlers.seed(program, jax.random.key(0))
        held = numpyro.handlers.substitute(seeded, values)
        return numpyro.handlers.trace(held).get_trace(*args)[name]["fn"]

    def prior(self):
        return self.site("z", self.model)

    def posterior(self, x):
        return self.site("z", self.guide, x)

    def likelihood(self, z):
        return self.site("x", self.model, z=z)


SLOW = [pytest.param(make, marks=pytest.mark.slow) for make in (equinox_model, linen_model)]


@pytest.mark.parametrize("make", [NumpyroModel, *SLOW])
def test_models_of_other_libraries_pass(make):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        verdict = check(make(), XS)
    assert verdict.passed, str(verdict)
    assert not verdict.unchecked, str(verdict)


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each_kind(CONTRACTS))
def test_models_of_the_library_pass(name):
    verdict = check(CONTRACTS[name].make(), CONTRACTS[name].batch)
    assert verdict.passed, str(verdict)
    assert not verdict.unchecked, str(verdict)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["full_covariance", "spline", "planar"])
def test_posteriors_of_the_library_pass(posterior):
    model = jv.models.vae(jax.random.key(0), (4,), latent_dim=3, hidden=(6,), posterior=posterior)
    verdict = check(model, (XS > 0).astype(np.float32))
    assert verdict.passed, str(verdict)


@pytest.mark.slow
def test_seeds_give_other_draws_and_the_same_verdict():
    model = replace(planted(), scale=jnp.full(2, 0.3))
    texts = {str(check(model, XS, seed=seed)) for seed in range(2)}
    assert len(texts) == 2
    assert all("passed: " in text for text in texts)
