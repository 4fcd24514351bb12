"""The tests of means that are public, under the name that the tests import."""

from jaxvae.testing import FALSE_ALARM, ZTest, assert_mean, assert_mean_exceeds, z_scores, z_test

__all__ = ["FALSE_ALARM", "ZTest", "assert_mean", "assert_mean_exceeds", "z_scores", "z_test"]
