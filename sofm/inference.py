"""What a learned map is asked: nodes and distances of samples, its error, a file."""

from __future__ import annotations

from copy import copy

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted

from .by_feature import ByFeature
from .distances import distance_table
from .distributed import lazy_distances, lazy_imputed, lazy_labels
from .missing import imputed
from .opening import is_blocks, is_dask, open_samples
from .parameters import wrong
from .samples import Samples
from .storage import load, save
from .threads import threads_for


class Inference(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """The methods of :class:`.SOFM` that leave it as it is."""

    def predict(self, X):
        """Best matching unit of every sample (eq. 5).

        Parameters
        ----------
        X : array, CSR matrix, dask array or blocks, of shape (N, D)

        Returns
        -------
        labels : int32 array of shape (N,)
            A lazy dask array for dask input.

        Raises
        ------
        ValueError
            X has another number of features than the map, or values that are not finite.

        Examples
        --------
        >>> import numpy as np
        >>> from rejuvenet.sofm import SOFM
        >>> som = SOFM(shape=2).fit(np.array([[0.0], [0.1], [0.9], [1.0]]))
        >>> som.predict(np.array([[0.8]]))
        array([1], dtype=int32)
        """
        check_is_fitted(self, "codebook_")
        if is_dask(X):
            return lazy_labels(self, X)
        nearest = self._nearest(open_samples(self, X, reset=False), 1)[0]
        return np.ascontiguousarray(nearest[:, 0])

    def transform(self, X):
        """Distances from every sample to every node; see :mod:`.distances`.

        With the metrics cosine and correlation, those between vectors scaled to length 1:
        ``sqrt(2 - 2 cos)``; with haversine, angles in radians.  For all metrics
        ``som.transform(X).min(axis=1).mean()`` is ``som.quantization_error_``.

        Parameters
        ----------
        X : array, CSR matrix, dask array or blocks, of shape (N, D)

        Returns
        -------
        distances : array of shape (N, K)
            Of X's type (float32 or float64); a lazy dask array for dask input.

        Raises
        ------
        ValueError
            X has another number of features than the map, or values that are not finite.

        Examples
        --------
        >>> import numpy as np
        >>> from rejuvenet.sofm import SOFM
        >>> X = np.array([[0.0], [1.0]])
        >>> SOFM(shape=2, init=X, n_epochs=1, sigma=0.01).fit(X).transform(X + 0.25)
        array([[0.25, 0.75],
               [1.25, 0.25]])
        """
        check_is_fitted(self, "codebook_")
        if is_dask(X):
            return lazy_distances(self, X)
        samples = open_samples(self, X, reset=False)
        return distance_table(samples, self.codebook_.astype(samples.dtype, copy=False))

    def score(self, X, y=None, sample_weight=None):
        """Negative quantization error: greater is better, as scikit-learn's searches expect.

        Parameters
        ----------
        X : array, CSR matrix, dask array or blocks, of shape (N, D)
        y : ignored
        sample_weight : array of shape (N,), optional

        Returns
        -------
        score : float
            Minus the mean distance of the samples to their nodes.

        Raises
        ------
        ValueError
            As :meth:`predict`, or the weights do not fit the samples.

        Examples
        --------
        >>> import numpy as np
        >>> from rejuvenet.sofm import SOFM
        >>> X = np.array([[0.0], [1.0]])
        >>> SOFM(shape=2, init=X, n_epochs=1, sigma=0.01).fit(X).score(X + 0.25)
        -0.25
        """
        check_is_fitted(self, "codebook_")
        samples = open_samples(self, X, sample_weight, reset=False)
        return 0.0 - float(self._nearest(samples, 1)[1] / samples.total_weight)

    def score_samples(self, X):
        """How well single samples fit the map: minus the distance to their nodes.

        What the map has not seen lies far from all nodes: outliers have the lowest scores.

        Parameters
        ----------
        X : array, CSR matrix, dask array or blocks, of shape (N, D)

        Returns
        -------
        scores : float64 array of shape (N,)
            At most 0; their mean is :meth:`score`.  No table of distances to all nodes is made.

        Raises
        ------
        ValueError
            X has another number of features than the map, or values that are not finite.

        References
        ----------
        Muñoz & Muruzábal, "Self-organizing maps for outlier detection", Neurocomputing 18, 1998.

        Examples
        --------
        >>> import numpy as np
        >>> from rejuvenet.sofm import SOFM
        >>> X = np.array([[0.0], [1.0]])
        >>> som = SOFM(shape=2, init=X, n_epochs=1, sigma=0.01).fit(X)
        >>> som.score_samples([[0.0], [1.25], [9.0]])
        array([ 0.  , -0.25, -8.  ])
        """
        check_is_fitted(self, "codebook_")
        samples = open_samples(self, X, reset=False)
        nodes = self._nearest(samples, 1)[0][:, 0]
        return 0.0 - samples.own_distances(self.codebook_, nodes)

    def impute(self, X):
        """Samples with the values of their nodes in place of those that are missing.

        The node is that of :meth:`predict`, found by the features that a sample has (Cottrell &
        Letrémy 2005).

        Parameters
        ----------
        X : array, CSR matrix, dask array or blocks, of shape (N, D)
            With NaN for what was not observed; of a CSR matrix, as stored entries.

        Returns
        -------
        X : array, CSR matrix, dask array or iterator over blocks
            As what was passed, with all other values as they were; an array for a data frame,
            whatever ``set_output`` says, which is about :meth:`transform`.

        Raises
        ------
        ValueError
            A row has no value at all, X does not fit the map, or the metric is not Euclidean.

        References
        ----------
        Cottrell & Letrémy, "Missing values: processing with the Kohonen algorithm", Applied
        Stochastic Models and Data Analysis, 2005.

        Examples
        --------
        >>> import numpy as np
        >>> from rejuvenet.sofm import SOFM
        >>> X = [[0, 0], [0, np.nan], [1, 8], [1, np.nan]]
        >>> som = SOFM(shape=2, sigma=0.01, missing="ignore").fit(X)
        >>> som.impute([[0.9, np.nan], [0.5, 7.0]])
        array([[0.9, 8. ],
               [0.5, 7. ]])
        """
        check_is_fitted(self, "codebook_")
        if self.metric != "euclidean":
            raise wrong("metric", "'euclidean', for which missing values are defined", self.metric)
        if is_dask(X):
            return lazy_imputed(self, X)
        som = copy(self).set_params(missing="ignore")
        samples = open_samples(som, X, reset=False)
        assert isinstance(samples, ByFeature)
        nodes = som._nearest(samples, 1)[0][:, 0]
        parts = (imputed(table, self.codebook_, nodes[rows]) for rows, table, _ in samples.rows())
        if is_blocks(X):
            return parts
        filled = list(parts)
        return filled[0] if len(filled) == 1 else np.concatenate(filled)

    def save(self, path) -> None:
        """Write parameters and learned attributes to an ``.npz`` file, without pickle.

        See :mod:`.storage` for the format.  A ``callback`` is not written, nor a ``random_state``
        that is an object: a map that is loaded has None in their places.

        Parameters
        ----------
        path : str or Path
            As given; no ending is added.

        Raises
        ------
        OSError
            The file cannot be written; one that was there is as it was.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> from rejuvenet.sofm import SOFM
        >>> som = SOFM(shape=2).fit([[0.0], [0.1], [0.9], [1.0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     som.save(Path(folder) / "map.npz")
        ...     again = SOFM.load(Path(folder) / "map.npz")
        >>> bool((again.codebook_ == som.codebook_).all())
        True
        """
        check_is_fitted(self, "codebook_")
        save(self, path)

    @classmethod
    def load(cls, path):
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        som : SOFM
            Fitted; without the ``callback``, and without a ``random_state`` that was an object.

        Raises
        ------
        ValueError
            The file is none of ours, damaged, or of a later version.
        OSError
            There is no such file, or it cannot be opened.

        Examples
        --------
        See :meth:`save`.
        """
        return load(cls, path)

    def _nearest(self, samples: Samples, n: int):
        """The ``n`` nearest nodes of new samples, searched in the samples' type."""
        codebook = self.codebook_.astype(samples.dtype, copy=False)
        with threads_for(self.n_jobs, samples, len(codebook)) as threads:
            samples.begin(codebook, threads)
            return samples.nearest(codebook, n)
