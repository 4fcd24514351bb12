"""Small pictures with known factors, rendered when they are loaded."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxvae.data.raw import Raw

FACTORS: Mapping[str, int] = {"shape": 3, "scale": 4, "orientation": 8, "x": 8, "y": 8}
"""The factors of a picture, in the order of the columns of `factors`, with their numbers of values."""

SIZE = 32  # pixels along a side of a picture
SPRITE = 18  # pixels along a side of the window that contains a shape at any orientation
STEP = 2  # pixels from one position to the next
LEVELS = 64  # points per pixel that are inside or outside the shape: 8 x 8

_SCALES = (0.55, 0.7, 0.85, 1.0)


def read_shapes() -> Raw:
    """Return 6,144 pictures of 32 x 32 pixels: every combination of five factors, once.

    A square, an ellipse or a heart; four sizes; eight orientations from 0 to 78.75 degrees, counter
    clockwise; eight places from left to right, and eight from top to bottom. A pixel has levels
    0..64, the number of its 8 x 8 points that lie in the shape. A square looks the same after a turn of 90
    degrees, so all orientations are below that, and no two pictures are alike.

    Source: none; the choice of factors follows Matthey et al. (2017), "dSprites". Departs from the
    source: it is not dSprites: smaller, fewer values of each factor, grey edges, and orientations
    in a quarter turn, where dSprites has several for the same picture.
    """
    pictures, factors = render()
    said = ", ".join(f"{name} ({count})" for name, count in FACTORS.items())
    return Raw(
        name="shapes",
        where="shapes",
        origin=f"rendered by jaxvae (not dSprites), factors {said}",
        splits={"all": {"x": pictures, "label": factors[:, 0], "factors": factors}},
        full_scale=float(LEVELS),
        held_out=512,
        num_classes=FACTORS["shape"],
    )


def render() -> tuple[UInt8[np.ndarray, "N H W"], Int[np.ndarray, "N F"]]:
    """Render all pictures, with levels 0..64, and return them with their factors; the last factor varies fastest.

    >>> pictures, factors = render()
    >>> pictures.shape, factors[-1].tolist()
    ((6144, 32, 32), [2, 3, 7, 7, 7])
    """
    counts = tuple(FACTORS.values())
    pictures = np.zeros((*counts, SIZE, SIZE), np.uint8)
    for shape, scale, turn in np.ndindex(counts[:3]):
        drawn = sprite(shape, _SCALES[scale], 90 * turn / counts[2])
        for x, y in np.ndindex(counts[3:]):
            rows, columns = (slice(STEP * at, STEP * at + SPRITE) for at in (y, x))
            pictures[shape, scale, turn, x, y, rows, columns] = drawn
    factors = np.array(list(np.ndindex(counts)), np.int32)
    return pictures.reshape(-1, SIZE, SIZE), factors


def sprite(shape: int, scale: float, degrees: float) -> UInt8[np.ndarray, "S S"]:
    """Render one shape in the middle of its window: for each pixel the number of its points in the shape.

    Args:
        shape: 0 a square, 1 an ellipse, 2 a heart.
        scale: 1 is the largest that fits.
        degrees: the rotation, counter clockwise.
    """
    across = round(LEVELS**0.5)
    at = (np.arange(SPRITE * across) + 0.5) / across - SPRITE / 2
    right, up = at[None, :], -at[:, None]
    # Rounded, so that the last bit of a platform's cosine does not decide where a point lies.
    cos, sin = (round(float(f(np.deg2rad(degrees))), 12) for f in (np.cos, np.sin))
    unit = scale * SPRITE / 2
    u, v = (cos * right + sin * up) / unit, (cos * up - sin * right) / unit
    points = _inside(shape, u, v)
    return points.reshape(SPRITE, across, SPRITE, across).sum((1, 3), dtype=np.uint8)


def _inside(
    shape: int, u: Float[np.ndarray, "P P"], v: Float[np.ndarray, "P P"]
) -> Bool[np.ndarray, "P P"]:
    """Return which points lie in a shape, which is within the unit circle with its centre of mass at 0."""
    match shape:
        case 0:
            return np.maximum(abs(u), abs(v)) <= 2 / 3
        case 1:
            return u * u + 4 * v * v <= 0.9
        case _:
            u, v = 1.3 * u, 1.3 * v + 0.2935  # its centre of mass at 0
            ball = u * u + v * v - 1
            return ball * ball * ball <= u * u * v * v * v
