"""The public tests of means in `jaxvae.testing`, re-exported for the tests."""

from jaxvae.testing import FALSE_ALARM, ZTest, assert_mean, assert_mean_exceeds, z_scores, z_test

__all__ = ["FALSE_ALARM", "ZTest", "assert_mean", "assert_mean_exceeds", "z_scores", "z_test"]
