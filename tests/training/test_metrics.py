from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxvae.training.metrics import Metrics

# Sums of small integers are exact in float32, so merging can be held to equality.
batches = st.lists(
    st.lists(st.integers(-1000, 1000), min_size=1, max_size=5), min_size=3, max_size=3
)


def of(values, mask=None):
    values = jnp.asarray(values, jnp.float32)
    return Metrics.of({"loss": values, "rate": 2 * values}, mask)


def check_merge(merge, parts):
    """The mean over all the examples, by whichever brackets; exact."""
    a, b, c = map(of, parts)
    for merged in (merge(merge(a, b), c), merge(a, merge(b, c)), merge(merge(c, a), b)):
        every = np.concatenate(parts)
        assert merged.count == len(every)
        np.testing.assert_array_equal(merged["loss"], np.float32(every.sum()) / len(every))
        np.testing.assert_array_equal(merged["rate"], np.float32(2 * every.sum()) / len(every))


@given(batches)
def test_merging_is_associative_and_weighs_by_examples(parts):
    check_merge(Metrics.merge, parts)


def test_check_of_merge_rejects_a_mean_of_means():
    def mean_of_means(a, b):
        means = {name: (a[name] + b[name]) / 2 * (a.count + b.count) for name in a}
        return Metrics(means, a.count + b.count)

    with pytest.raises(AssertionError):
        check_merge(mean_of_means, [[1, 2, 3], [10], [5, 6]])


def test_mask_weighs_the_examples():
    metrics = of([1.0, 2.0, 100.0], jnp.array([1.0, 0.5, 0.0]))
    assert metrics.count == 1.5
    np.testing.assert_allclose(metrics["loss"], 2 / 1.5, rtol=1e-6)


def test_it_is_a_mapping_and_a_pytree():
    metrics = of([1.0, 3.0])
    assert isinstance(metrics, Mapping)
    assert dict(metrics) == {"loss": 2, "rate": 4}
    assert len(metrics) == 2
    assert "loss" in metrics
    assert "bound" not in metrics
    again = jax.jit(lambda m: m)(metrics)
    assert isinstance(again, Metrics)
    assert jax.tree.structure(again) == jax.tree.structure(metrics)
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(metrics)}
    assert paths == {".sums['loss']", ".sums['rate']", ".count"}
    assert "loss" in repr(metrics)


def test_a_vmapped_metrics_holds_one_mean_an_entry():
    metrics = jax.vmap(of)(jnp.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(metrics["loss"], [1, 4])
