"""Pictures of a map (matplotlib, optional): every function draws into an ``Axes`` and returns it.

Cells are drawn where the nodes are: squares on a rectangular map, hexagons on a hexagonal one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from . import nodes
from .grid import Grid
from .measures import hit_histogram
from .parameters import integer


def _axes(ax):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _corners(grid: Grid) -> NDArray[np.float64]:
    """Outline of a cell around its node: (n, 2) horizontal and vertical."""
    if grid.topology == "hexagonal" and not grid.is_line:
        angles = np.pi / 6 + np.pi / 3 * np.arange(6)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(3)
    return np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def cells(grid: Grid, values: NDArray, ax=None, *, cmap="viridis", label: str = "", **style):
    """Draw one coloured cell per node.

    Parameters
    ----------
    grid : Grid
    values : array of shape (K,)
        NaN leaves a cell grey.
    ax : matplotlib Axes, optional
    cmap : str or Colormap
    label : str
        Of the colour bar; empty draws none.
    **style
        Of matplotlib's ``PolyCollection``.

    Returns
    -------
    ax : matplotlib Axes

    Examples
    --------
    >>> import matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> from rejuvenet.sofm import Grid, plots
    >>> ax = plots.cells(Grid(3, 4, "hexagonal"), np.arange(12.0), label="node")
    """
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    ax = _axes(ax)
    colours = colormaps[cmap] if isinstance(cmap, str) else cmap
    colours = colours.with_extremes(bad="0.85")
    centres = grid.coordinates[:, ::-1]
    polygons = centres[:, None, :] + _corners(grid)
    style.setdefault("edgecolor", "face")
    drawn = PolyCollection(list(polygons), cmap=colours, linewidth=0.3, **style)
    drawn.set_array(np.ma.masked_invalid(np.asarray(values, np.float64).ravel()))
    ax.add_collection(drawn)
    low, high = polygons.min(axis=(0, 1)), polygons.max(axis=(0, 1))
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(high[1], low[1])
    ax.set_aspect("auto" if grid.is_line else "equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if label:
        ax.figure.colorbar(drawn, ax=ax, label=label, shrink=0.8)
    return ax


def u_matrix(som, ax=None, **style):
    """Mean distance of every node to those that touch it; see :func:`.nodes.u_matrix`.

    Parameters
    ----------
    som : SOFM
        Fitted.
    ax : matplotlib Axes, optional
        A new figure's unless given.
    **style
        Of :func:`cells`.

    Returns
    -------
    ax : matplotlib Axes

    Examples
    --------
    >>> import matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> ax = plots.u_matrix(SOFM(shape=(2, 2)).fit(X))
    """
    style.setdefault("label", "distance to neighbours")
    style = {"cmap": "bone_r", "edgecolor": "0.8", **style}
    return cells(som.grid_, nodes.u_matrix(som), ax, **style)


def hits(som, X=None, ax=None, **style):
    """Samples per node; nodes without any are grey.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X : as for :func:`.measures.hit_histogram`, optional
    ax : matplotlib Axes, optional
        A new figure's unless given.
    **style
        Of :func:`cells`.

    Returns
    -------
    ax : matplotlib Axes

    Examples
    --------
    >>> import matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> ax = plots.hits(SOFM(shape=(2, 2)).fit(X))
    """
    counts = hit_histogram(som, X).ravel()
    style.setdefault("label", "samples")
    return cells(som.grid_, np.where(counts > 0, counts, np.nan), ax, **style)


def _feature(som, feature) -> tuple[int, str]:
    """Column and name of a feature that is given by either."""
    check_is_fitted(som, "codebook_")
    D = som.codebook_.shape[1]
    names = list(getattr(som, "feature_names_in_", ()))
    if isinstance(feature, str):
        if feature not in names:
            known = f"one of {', '.join(map(repr, names[:9]))}" if names else "a column's number"
            raise ValueError(f"feature: expected {known}, got {feature!r}")
        return names.index(feature), feature
    column = integer("feature", feature, -D, D - 1) % D
    return column, names[column] if names else f"feature {column}"


def component_plane(som, feature: int | str, ax=None, **style):
    """One feature of the codebook over the map.

    Parameters
    ----------
    som : SOFM
        Fitted.
    feature : int or str
        Column of ``codebook_``, or its name if the map was fitted to a data frame.
    ax : matplotlib Axes, optional
        A new figure's unless given.
    **style
        Of :func:`cells`.

    Returns
    -------
    ax : matplotlib Axes

    Examples
    --------
    >>> import matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> ax = plots.component_plane(SOFM(shape=(2, 2)).fit(X), 1)
    """
    column, name = _feature(som, feature)
    style.setdefault("label", name)
    return cells(som.grid_, som.codebook_[:, column], ax, **style)


def component_planes(som, features=None, columns: int = 4):
    """Several features, one map each.

    Parameters
    ----------
    som : SOFM
        Fitted.
    features : sequence of int or str, optional
        Columns of ``codebook_``, or their names; all unless given.
    columns : int, default=4
        Maps side by side.

    Returns
    -------
    figure : matplotlib Figure

    Examples
    --------
    >>> import matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> figure = plots.component_planes(SOFM(shape=(2, 2)).fit(X))
    """
    import matplotlib.pyplot as plt

    check_is_fitted(som, "codebook_")
    features = range(som.codebook_.shape[1]) if features is None else features
    features = [_feature(som, feature) for feature in features]
    columns = min(columns, len(features))
    rows = -(-len(features) // columns)
    figure, axes = plt.subplots(
        rows, columns, squeeze=False, layout="constrained", figsize=(2.6 * columns, 2.6 * rows)
    )
    for ax in axes.ravel()[len(features) :]:
        ax.remove()
    for (column, name), ax in zip(features, axes.ravel(), strict=False):
        component_plane(som, column, ax, label="").set_title(name, fontsize=9)
    return figure


def class_map(som, X, y, ax=None, *, cmap="tab10", **style):
    """The most frequent class of every node, with its name in the cell.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X, y : as for :func:`.nodes.label_map`
    ax : matplotlib Axes, optional
        A new figure's unless given.
    cmap : str or Colormap
    **style
        Of :func:`cells`.

    Returns
    -------
    ax : matplotlib Axes

    Raises
    ------
    ValueError
        y does not have one label for each sample.

    Examples
    --------
    >>> import matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> ax = plots.class_map(SOFM(shape=(2, 2)).fit(X), X, ['low', 'low', 'high'])
    """
    labels = nodes.label_map(som, X, y).ravel()
    names = sorted({name for name in labels if name is not None})
    values = np.array([np.nan if n is None else names.index(n) for n in labels], np.float64)
    ax = cells(som.grid_, values, ax, cmap=cmap, clim=(-0.5, max(len(names), 10) - 0.5), **style)
    for (vertical, horizontal), name in zip(som.grid_.coordinates, labels, strict=True):
        if name is not None:
            ax.text(horizontal, vertical, str(name), ha="center", va="center", fontsize=7)
    return ax


def training(som, ax=None):
    """Quantization error (left) and width of the neighbourhood (right) over the epochs.

    Parameters
    ----------
    som : SOFM
        Fitted.
    ax : matplotlib Axes, optional
        A new figure's unless given.

    Returns
    -------
    ax : matplotlib Axes

    Examples
    --------
    >>> import matplotlib, numpy as np
    >>> matplotlib.use("agg")
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> ax = plots.training(SOFM(shape=(2, 2)).fit(X))
    """
    check_is_fitted(som, "codebook_")
    ax = _axes(ax)
    epochs = [record["epoch"] + 1 for record in som.history_]
    ax.plot(epochs, [r["quantization_error"] for r in som.history_], color="C0", marker=".")
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_ylabel("quantization error", color="C0")
    right = ax.twinx()
    right.plot(epochs, [r["sigma"] for r in som.history_], color="C1", linestyle="--")
    right.set_ylabel("sigma (nodes)", color="C1")
    right.set_yscale("log")
    return ax
