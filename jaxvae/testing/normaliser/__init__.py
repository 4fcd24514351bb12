"""Tests that a density integrates to one and that draws follow it: by sums, by quadrature or by draws.

They use only `sample`, `log_prob` and `support` of a distribution, so that they work for those of users.
"""

from jaxvae.distributions import can_score
from jaxvae.testing.normaliser.drawn import Drawn, Sum, UnknownError, drawn
from jaxvae.testing.normaliser.draws import by_draws
from jaxvae.testing.normaliser.follow import draws_follow
from jaxvae.testing.normaliser.lines import by_lines, is_product
from jaxvae.testing.normaliser.points import all_points, over_points

__all__ = ["Drawn", "Sum", "UnknownError", "drawn", "draws_follow", "integrate"]


def integrate(d: Drawn, false_alarm: float) -> Sum:
    """Compute the integral of a density, by the first of three methods that applies.

    - If the support has few points, it is summed: `log sum_x p(x)`.
    - If the density is a constant times a product of factors f_d(x_d), its integral is `p(x0)` times the product of
      the D sums or integrals of `p(x0 with x_d = t) / p(x0)` over t. That it is a product is tested by exchanging
      values between two draws x and x', which gives y and y' with `p(x) p(x') = p(y) p(y')`.
    - Otherwise by `E_p[r(x) / p(x)] = 1`, where r is a mixture of Gaussians, fitted to other draws and made narrower.

    Raises:
        UnknownError: no method applies.

    Source: Gelfand and Dey (1994), "Bayesian model choice: asymptotics and exact calculations", for the last method.
    """
    if not can_score(d.distribution):
        return by_draws(d, false_alarm)
    points = all_points(d)
    if points is not None:
        return over_points(d, points)
    if is_product(d):
        try:
            return by_lines(d)
        except UnknownError:
            if d.distribution.is_discrete:
                raise
    return by_draws(d, false_alarm)
