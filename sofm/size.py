"""How many nodes a map should have, and in which proportion of its sides."""

from __future__ import annotations

import numpy as np

from .estimator import SOFM
from .initialization import principal_components
from .opening import open_samples


def suggest_shape(X, sample_weight=None, *, missing="error") -> tuple[int, int]:
    """Rows and columns of a map for these samples, by the rule of the SOM Toolbox.

    About ``5 sqrt(N)`` nodes, with sides in the proportion of the standard deviations along the
    first two principal components (the first two singular values of the centred samples).  It is
    a place to begin: see :func:`rejuvenet.sofm.plots.errors_by_size`.

    Parameters
    ----------
    X : array, CSR matrix, dask array or blocks, of shape (N, D)
        Features in comparable units: scale them first, as for a fit.
    sample_weight : array of shape (N,), optional
        A weight of 2 is a sample that occurs twice.
    missing : {"error", "ignore"}, default="error"
        What NaN means, as for :class:`SOFM`.

    Returns
    -------
    shape : (int, int)
        Rows and columns, of which there are no fewer than rows.

    Raises
    ------
    ValueError
        X cannot be used; the message names the row.

    References
    ----------
    Vesanto, Himberg, Alhoniemi & Parhankangas, "SOM Toolbox for Matlab 5", Helsinki University of
    Technology, 2000 (``som_topol_struct``).

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import suggest_shape
    >>> X = np.random.default_rng(0).standard_normal((400, 3)) * [4.0, 1.0, 0.1]
    >>> suggest_shape(X)  # of about 100 nodes
    (5, 20)
    """
    samples = open_samples(SOFM(missing=missing), X, sample_weight, reset=True).for_training()
    nodes = max(1, round(5 * np.sqrt(samples.total_weight)))
    long, short = principal_components(*samples.some(), 2)[2]
    rows = round(np.sqrt(nodes * short / long)) if long > 0 else 1
    rows = max(1, rows)
    return rows, max(rows, round(nodes / rows))
