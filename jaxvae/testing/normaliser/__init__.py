"""Does a density integrate to one, and do its draws follow it: by sums, by quadrature, by draws.

Nothing is assumed of a distribution but `sample`, `log_prob` and `support`, so that those of users can be judged.
"""

from jaxvae.distributions import can_score
from jaxvae.testing.normaliser.drawn import Drawn, Sum, UnknownError, drawn
from jaxvae.testing.normaliser.draws import by_draws
from jaxvae.testing.normaliser.follow import draws_follow
from jaxvae.testing.normaliser.lines import by_lines, is_product
from jaxvae.testing.normaliser.points import all_points, over_points

__all__ = ["Drawn", "Sum", "UnknownError", "drawn", "draws_follow", "integrate"]


def integrate(d: Drawn, false_alarm: float) -> Sum:
    """The integral of a density, in the first way of three that can be gone.

    - A support of few points is summed: `log sum_x p(x)`.
    - A density that is a product of factors f_d(x_d), times a constant, is `p(x0)` times the product of the D
      sums or integrals of `p(x0 with x_d = t) / p(x0)` over t. Whether it is one is found by exchanging values
      of two draws, for which `p(x) p(x') = p(y) p(y')`.
    - Else `E_p[r(x) / p(x)] = 1`, r a mixture of Gaussians fitted to other draws and narrower than they.

    Raises:
        UnknownError: none of them can.

    Source: Gelfand and Dey (1994), "Bayesian model choice: asymptotics and exact calculations", for the last.
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
