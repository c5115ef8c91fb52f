r"""What rounding may cost: margins of float32 scores, and float64 sums that are exact.

With ``u = 2^-24``, a float32 sum of ``n`` products of rounded factors is off by at most
``gamma_n |x| |w|``, ``gamma_n = (n + 8) u`` (Higham, "Accuracy and Stability of Numerical
Algorithms", section 3.1; the 8 covers rounded input, bias and thresholds), and ``q`` coordinates
on orthonormal directions, as a vector, by at most ``eps |x|``, ``eps = sqrt(q) gamma_D``.

A sum does not depend on the order of its terms when every term is first rounded to a grid so
coarse that float64 sums of all terms are exact: add and subtract ``big`` (Demmel & Nguyen, "Fast
reproducible floating-point summation", 2013).  Threads, chunks and blocks can then be added in any
order and give the same bits.
"""

from __future__ import annotations

import numpy as np

UNIT = 2.0**-24
TINY = np.float32(1e-30)  # coordinates are at most 1: what is below comes from underflow


def gamma(n: int) -> float:
    """Bound of the relative error of a float32 sum of ``n`` products."""
    return 1.01 * (n + 8) * UNIT


def grid_constant(largest: float, n_terms: int) -> float:
    """The ``big`` whose addition and subtraction rounds terms so that their sums are exact.

    Parameters
    ----------
    largest : float
        Largest magnitude of a term.
    n_terms : int

    Returns
    -------
    float
        ``1.5 * 2**52`` times the grid's spacing.

    Raises
    ------
    ValueError
        The sums can be larger than a float64.
    """
    if largest == 0:
        return 0.0
    exponent = int(np.frexp(largest)[1]) + int(np.ceil(np.log2(max(n_terms, 1)))) + 2
    if not np.isfinite(largest) or exponent > np.finfo(np.float64).maxexp:
        raise ValueError(
            f"expected samples whose weighted sums fit in a float64, got {n_terms} values of up to "
            f"{largest:.3g}: scale X or the weights down"
        )
    return float(np.ldexp(1.5, exponent - 53 + 52))
