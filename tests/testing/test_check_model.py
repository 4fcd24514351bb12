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
from tests.support.refusals import refusal
from tests.support.slow import WHOLE, one_of_each_kind, slow_but

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


class Noise(Diagonal):
    """Normals by their density, with noise of mean 0 and variance 1 of another kind."""

    def __init__(self, loc, scale, *, of):
        self.of = of
        super().__init__(loc, scale)

    def noise(self, key):
        return self.of(key, self.event_shape)


def folded_twice(key, shape):
    del shape
    return jnp.stack([jax.random.normal(jax.random.fold_in(key, 1)) for _ in range(2)])


NOISES = {
    "one draw for all": lambda key, shape: jnp.broadcast_to(jax.random.normal(key), shape),
    "one fold twice": folded_twice,
    "skewed": lambda key, shape: jax.random.exponential(key, shape) - 1,
    "uniform": lambda key, shape: jax.random.uniform(key, shape, minval=-(3**0.5), maxval=3**0.5),
    "laplace": lambda key, shape: jax.random.laplace(key, shape) / 2**0.5,
}


class OneUniform(FloatBernoulli):
    """Bits that share their noise."""

    def sample(self, key, sample_shape=()):
        return (jax.random.uniform(key) < self.probs).astype(jnp.float32)


class OffByLabel(Linear):
    """p(x|z, y) off by exp(y): no fault where the label is 0."""

    def given(self, y):
        return planted(
            likelihood=lambda self, z: Scaled(
                self.decoder @ z, jnp.full(4, 0.5), of=jnp.asarray(y, jnp.float32)
            )
        )


class Scaled(Diagonal):
    def __init__(self, loc, scale, *, of):
        self.of = of
        super().__init__(loc, scale)

    def log_prob(self, value):
        return super().log_prob(value) + self.of


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
FAULTS |= {
    f"noise: {name}": ("draws follow q(z|x)", q_of(partial(Noise, of=noise)))
    for name, noise in NOISES.items()
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


@pytest.mark.slow
def test_bits_that_share_their_noise_are_found():
    bits = (XS > 0).astype(np.float32)
    for family, passes in ((FloatBernoulli, True), (OneUniform, False)):
        model = planted(likelihood=lambda self, z, f=family: f(logits=self.decoder @ z).to_event(1))
        verdict = check(model, bits)
        assert verdict.passed == passes, str(verdict)
        assert passes or verdict.failed[0].law == "draws follow p(x|z)"


@pytest.mark.slow
def test_every_label_is_looked_at():
    class Labelled:
        given = OffByLabel.given

    verdict = check(Labelled(), {"x": XS, "label": np.array([0, 1, 2])})
    assert [finding.law for finding in verdict.failed] == ["p(x|z) integrates to 1"], str(verdict)
    assert check(Labelled(), {"x": XS, "label": np.zeros(3, int)}).passed


# What is right, and looked wrong.


def spiked(self, z):
    """A component twenty times narrower than the other, in each value."""
    loc = jnp.stack([self.decoder @ z, self.decoder @ z + 50], axis=-1)
    weights = dist.Categorical(probs=jnp.tile(jnp.array([0.98, 0.02]), (4, 1)))
    return dist.MixtureSameFamily(weights, dist.Normal(loc, jnp.array([1.0, 0.05]))).to_event(1)


def of_many_counts(self, z):
    return dist.NegativeBinomial2(2e4 * jnp.exp(self.decoder @ z / 10), 0.5).to_event(1)


def of_a_loop(self, z):
    """A carry that says that it is float32."""

    def halve(h, _):
        return h * 0.5 + self.decoder @ z, None

    h, _ = jax.lax.scan(halve, jnp.zeros(4, jnp.float32), None, length=2)
    return dist.Normal(h, 0.5).to_event(1)


def near_z(self, z):
    return dist.Uniform(self.decoder @ z - 20, self.decoder @ z + 20).to_event(1)


RIGHT = {
    "a narrow component": (spiked, XS),
    "large counts": (of_many_counts, np.round(np.exp(XS))),
    "a loop in float32": (of_a_loop, XS),
    "a support that moves with z": (near_z, XS),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name):
    likelihood, xs = RIGHT[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        verdict = check(planted(likelihood=likelihood), xs)
    assert verdict.passed, str(verdict)


@pytest.mark.slow
def test_models_of_784_pixels_pass_at_any_seed():
    bits = (np.random.default_rng(0).random((2, 28, 28)) < 0.3).astype(np.float32)
    model = jv.models.vae(jax.random.key(0), (28, 28), latent_dim=8, hidden=(16,))
    for seed in range(3):
        verdict = check(model, bits, seed=seed, num_draws=2048)
        assert verdict.passed, str(verdict)


@pytest.mark.slow
def test_a_model_may_hold_keys():
    class Dropped(nnx.Module):
        def __init__(self):
            self.layer, self.drop = (
                nnx.Linear(4, 2, rngs=nnx.Rngs(0)),
                nnx.Dropout(0.5, rngs=nnx.Rngs(1)),
            )

        prior, likelihood = Linear.prior, Linear.likelihood
        decoder = arrays()[1]

        def posterior(self, x):
            return dist.Normal(self.layer(self.drop(x)), 1.0).to_event(1)

    model = Dropped()
    assert [finding.law for finding in check(model, XS).failed] == ["nothing hidden"]
    model.eval()
    verdict = check(model, XS)
    assert verdict.passed, str(verdict)


def test_arrays_of_a_plain_class_are_seen_to_change():
    class Moving(NumpyroModel):
        def posterior(self, x):
            self.seen = getattr(self, "seen", np.zeros(4)) * 0.9 + x
            return super().posterior(x)

    assert [finding.law for finding in check(Moving(), XS).failed] == ["nothing hidden"]


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
    with refusal(match="xs: expected at least two examples"):
        check(planted(), XS[:1])
    with refusal(match="xs: expected whole examples"):
        check(planted(), {"x": XS, "weight": np.ones(3)})
    with refusal(match="false_alarm"):
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
@pytest.mark.parametrize("posterior", ["full_covariance", *(["spline", "planar"] if WHOLE else [])])
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
