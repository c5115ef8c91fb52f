"""Pictures of a map (matplotlib, optional): every function draws into an ``Axes`` and returns it.

Cells are drawn where the nodes are: squares on a rectangular map, hexagons on a hexagonal one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from . import nodes
from .grid import Grid
from .measures import hit_histogram
from .parameters import integer
from .size import suggest_shape

__all__ = [
    "activation", "cells", "class_map", "component_plane", "component_planes", "errors_by_size",
    "hits", "sample_names", "training", "u_matrix",
]  # fmt: skip


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


def _write(ax, grid: Grid, node: int, text: str, fontsize: float) -> None:
    """Put a text into the cell of a node."""
    vertical, horizontal = grid.coordinates[node]
    if text:
        ax.text(horizontal, vertical, text, ha="center", va="center", fontsize=fontsize)


def _beside_errors(ax, x, errors, others, label: str, **style):
    """Quantization errors on the left, something else on the right; both axes."""
    ax = _axes(ax)
    ax.plot(x, errors, color="C0", marker=".")
    ax.set_ylabel("quantization error", color="C0")
    right = ax.twinx()
    right.plot(x, others, color="C1", linestyle="--", **style)
    right.set_ylabel(label, color="C1")
    return ax, right


def cells(grid: Grid, values: NDArray, ax=None, *, cmap="viridis", label: str = "", **style):
    """Draw one coloured cell per node.

    Parameters
    ----------
    grid : Grid
    values : array of shape (K,)
        NaN leaves a cell grey.
    ax : matplotlib Axes, optional
        Drawn into and returned; a new figure's unless given.
    cmap : str or Colormap
    label : str
        Of the colour bar; empty draws none.
    **style
        Of matplotlib's ``PolyCollection``.

    Examples
    --------
    >>> import numpy as np
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
    """Mean distance of every node to those that touch it; see :func:`rejuvenet.sofm.u_matrix`.

    Parameters
    ----------
    som : SOFM
        Fitted.
    ax : matplotlib Axes, optional
        Drawn into and returned; a new figure's unless given.
    **style
        Of :func:`cells`.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> ax = plots.u_matrix(SOFM(shape=(2, 2)).fit(X))
    """
    style = {"cmap": "bone_r", "edgecolor": "0.8", "label": "distance to neighbours", **style}
    return cells(som.grid_, nodes.u_matrix(som), ax, **style)


def hits(som, X=None, ax=None, **style):
    """Samples per node; nodes without any are grey.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X : as for :func:`rejuvenet.sofm.hit_histogram`, optional
    ax : matplotlib Axes, optional
        Drawn into and returned; a new figure's unless given.
    **style
        Of :func:`cells`.

    Examples
    --------
    >>> import numpy as np
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
        Drawn into and returned; a new figure's unless given.
    **style
        Of :func:`cells`.

    Examples
    --------
    >>> import numpy as np
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
    >>> import numpy as np
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
    X, y : as for :func:`rejuvenet.sofm.label_map`
    ax : matplotlib Axes, optional
        Drawn into and returned; a new figure's unless given.
    cmap : str or Colormap
    **style
        Of :func:`cells`.

    Raises
    ------
    ValueError
        y does not have one label for each sample.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> ax = plots.class_map(SOFM(shape=(2, 2)).fit(X), X, ['low', 'low', 'high'])
    """
    labels = nodes.label_map(som, X, y).ravel()
    names = sorted({name for name in labels if name is not None})
    values = np.array([np.nan if n is None else names.index(n) for n in labels], np.float64)
    ax = cells(som.grid_, values, ax, cmap=cmap, clim=(-0.5, max(len(names), 10) - 0.5), **style)
    for node, name in enumerate(labels):
        _write(ax, som.grid_, node, "" if name is None else str(name), 7)
    return ax


def activation(som, x, ax=None, **style):
    """Distances of one sample to all nodes, the nearest marked; see :func:`.activation_map`.

    Parameters
    ----------
    som : SOFM
        Fitted.
    x : array of shape (D,)
    ax : matplotlib Axes, optional
        Drawn into and returned; a new figure's unless given.
    **style
        Of :func:`cells`.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> ax = plots.activation(SOFM(shape=(2, 2)).fit(X), X[0])
    """
    distances = nodes.activation_map(som, x).ravel()
    style = {"cmap": "viridis_r", "label": "distance", **style}
    ax = cells(som.grid_, distances, ax, **style)
    vertical, horizontal = som.grid_.coordinates[distances.argmin()]
    ax.plot(horizontal, vertical, "o", color="white", markeredgecolor="black")
    return ax


def sample_names(som, X, names, ax=None, *, most: int = 4, fontsize=6, **style):
    """Names of the samples in the cells of their nodes, over the number of samples.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X : as for :func:`rejuvenet.sofm.hit_histogram`
    names : sequence of length N
    ax : matplotlib Axes, optional
        Drawn into and returned; a new figure's unless given.
    most : int, default=4
        Names in a cell; of more, how many more there are.
    fontsize : float, default=6
    **style
        Of :func:`cells`.

    Raises
    ------
    ValueError
        There is not one name for each sample.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> ax = plots.sample_names(SOFM(shape=(2, 2)).fit(X), X, ["rose", "lily", "oak"])
    """
    _, won = nodes.winners(som, X)
    names = [str(name) for name in names]
    if len(names) != len(won):
        raise ValueError(f"names: expected one for each of {len(won)} samples, got {len(names)}")
    counts = np.bincount(won, minlength=som.grid_.n_nodes).astype(np.float64)
    style = {"cmap": "Blues", "clim": (0, 2 * counts.max()), "edgecolor": "0.8", **style}
    ax = cells(som.grid_, np.where(counts > 0, counts, np.nan), ax, **style)
    for node in np.flatnonzero(counts).tolist():
        inside = [names[i] for i in np.flatnonzero(won == node)]
        more = [f"+{len(inside) - most}"] if len(inside) > most else []
        _write(ax, som.grid_, node, "\n".join(inside[:most] + more), fontsize)
    return ax


def errors_by_size(som, X, shapes=None, ax=None):
    """Quantization error (left) and topographic error (right) of maps of several sizes.

    More nodes always lower the quantization error of the samples that they were trained on; where
    it falls no faster than the cost of nodes, or where the topographic error rises, is a good size.

    Parameters
    ----------
    som : SOFM
        Whose parameters all maps have; it need not be fitted, and is as it was.
    X : array, CSR matrix, dask array or blocks, of shape (N, D)
    shapes : sequence of int or (int, int), optional
        A quarter to four times the nodes of :func:`rejuvenet.sofm.suggest_shape` unless given.
    ax : matplotlib Axes, optional
        Drawn into and returned; a new figure's unless given.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.random.default_rng(0).random((60, 3))
    >>> ax = plots.errors_by_size(SOFM(n_epochs=5), X, [(2, 2), (3, 4), (6, 6)])
    """
    if shapes is None:
        even = 2 if som.topology == "hexagonal" and som.periodic else 1  # rows of such a map
        suggested = np.array(suggest_shape(X, missing=som.missing)) / [even, 1]
        halves = np.ceil(np.multiply.outer([0.5, 0.71, 1, 1.41, 2], suggested)).astype(int)
        shapes = [(even * rows, columns) for rows, columns in halves.tolist()]
    maps = [clone(som).set_params(shape=shape).fit(X) for shape in shapes]
    sizes, apart = zip(*((m.grid_.n_nodes, m.topographic_error_) for m in maps), strict=True)
    errors = [m.quantization_error_ for m in maps]
    ax, _ = _beside_errors(ax, sizes, errors, apart, "topographic error", marker=".")
    for m in maps:
        rows, columns = m.grid_.rows, m.grid_.columns
        place = m.grid_.n_nodes, m.quantization_error_
        ax.annotate(f"{rows} x {columns}", place, (2, 4), textcoords="offset points", fontsize=7)
    ax.margins(0.12)  # for the names
    ax.set_xlabel("nodes")
    return ax


def training(som, ax=None):
    """Quantization error (left) and width of the neighbourhood (right) over the epochs.

    Parameters
    ----------
    som : SOFM
        Fitted.
    ax : matplotlib Axes, optional
        Drawn into and returned; a new figure's unless given.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, plots
    >>> X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0]])
    >>> ax = plots.training(SOFM(shape=(2, 2)).fit(X))
    """
    check_is_fitted(som, "codebook_")
    names = "epoch", "quantization_error", "sigma"
    epochs, errors, widths = (np.array([r[name] for r in som.history_]) for name in names)
    ax, right = _beside_errors(ax, epochs + 1, errors, widths, "sigma (nodes)")
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    right.set_yscale("log")
    return ax
