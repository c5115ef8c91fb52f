"""The estimator :class:`SOFM`: parameters, the loop over epochs, and what is learned.

What a learned map is asked is in :mod:`.inference`.
"""

from __future__ import annotations

from contextlib import nullcontext
from copy import copy
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if

from . import initialization, parameters
from .inference import Inference
from .metrics import WithoutMeans, has_means
from .neighborhood import decayed, smooth, updated
from .online import online_epoch
from .opening import open_samples
from .samples import Averaged, Samples
from .threads import threads_for


def keeps_sums(som: SOFM) -> bool:
    """Whether :meth:`SOFM.partial_fit` is there: sums of eq. 8 are kept from call to call."""
    if not has_means(som.metric):
        raise AttributeError(
            f"partial_fit: expected a metric that has means, got {som.metric!r}: call fit"
        )
    if som.algorithm != "batch":
        raise AttributeError(
            f"partial_fit: expected algorithm='batch', got {som.algorithm!r}: call fit"
        )
    return True


class SOFM(Inference):
    r"""Self-organizing feature map (Kohonen 1982), trained by the batch rule.

    Every epoch finds the best matching unit of every sample (eq. 5) and then moves each node to the
    mean of all samples, weighted by the neighbourhood of their winners (eq. 7 and 8).  Winners are
    exact, memory does not grow with samples times nodes, and a seed gives the same bits with any
    number of threads, in memory, out of core or on a dask cluster.

    Parameters
    ----------
    shape : int or (int, int), default=8
        Nodes of a 1-D map, or rows and columns of a 2-D map.
    topology : {"rectangular", "hexagonal"}, default="rectangular"
    periodic : bool, default=False
        Join the borders: a ring or a torus.
    neighborhood : str, default="gaussian"
        ``"gaussian"``, ``"exponential"`` (eq. 7 as printed), ``"bubble"``, ``"epanechnikov"``,
        ``"cut_gaussian"``, or ``"mexican_hat"`` (online rule only); see :mod:`.neighborhood`.
    sigma : float, (float, float), (None, float) or None, default=None
        Width of the neighbourhood in nodes, at the first and the last epoch.  A number is the
        first; None is half the longer side of the map.  The last is 0.5 unless given:
        ``(None, 0.3)`` ends at 0.3, where nodes lie closer to their samples and in less order.
    decay : {"geometric", "linear", "asymptotic"}, default="geometric"
    init : {"pca", "sample", "random"} or array of shape (K, D), default="pca"
        See :mod:`.initialization`.
    n_epochs : int, default=20
    algorithm : {"batch", "online"}, default="batch"
        Eq. 8, or eq. 6 (slow).
    learning_rate : float, (float, float), (None, float) or None, default=None
        ``alpha`` of the online rule at the first and the last epoch; None is (0.5, 0.01).
    metric : str or callable, default="euclidean"
        ``"cosine"``: samples and nodes are scaled to length 1; ``"correlation"``: they are centred
        first.  ``"manhattan"``, ``"chebyshev"``, ``"haversine"`` (latitude and longitude in
        radians) or a function of two vectors (slow) move nodes to medians or medoids, see
        :mod:`.metrics`; X is one dense array then.
    missing : {"error", "ignore"}, default="error"
        What NaN means: bad input, or a value that was not observed (Euclidean metric only).
    tol : float, default=0.0
        Stop when the nodes' root mean square movement of an epoch is at most ``tol`` times the
        root mean square distance of the samples from their mean.
    callback : callable or None, default=None
        ``callback(estimator, record)`` after every epoch, ``record`` being the last entry of
        ``history_`` and ``codebook_`` up to date; returning True stops.  The estimator is the
        one that learns: what was learned before stays until it is done, and if it fails.  X must
        stay as it is meanwhile.
    half_life : float or None, default=None
        For :meth:`partial_fit` on streams that drift: samples (their weights) after which what was
        learned counts half as much.  None forgets nothing.
    random_state : int, RandomState or None, default=None
    n_jobs : int or None, default=None
        Threads, as scikit-learn counts them: None is 1 unless ``joblib.parallel_config`` says
        otherwise, -1 all processors that the process may use.
    verbose : int, default=0
        Whether to show a progress bar with the error of the epoch.

    Attributes
    ----------
    codebook_ : array of shape (K, D)
        The nodes, row after row of the map.  Of X's type (float32 or float64).
    labels_ : int32 array of shape (N,)
        Best matching unit of every sample.  Nodes that win none leave gaps in the numbers.
    quantization_error_ : float
        Mean distance of the samples to their nodes.
    topographic_error_ : float
        Share of samples whose two best matching units do not touch on the map (Kiviluoto 1996).
    n_iter_ : int
        Epochs.
    history_ : list of dict
        ``epoch``, ``sigma``, ``quantization_error`` (before the epoch's update) and ``movement``.
    grid_ : Grid
        Places of the nodes.

    Notes
    -----
    ``fit``, ``predict`` and ``partial_fit`` also take memory maps, CSR matrices, dask arrays and
    blocks: a list of 2-D arrays or a function that returns an iterator over them.

    References
    ----------
    .. [1] Kohonen, "Self-Organizing Maps", 3rd edition, Springer, 2001.
    .. [2] Baddar et al., "Self-Reorganizing and Rejuvenating CNNs", 2021, equations 5 to 8.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from rejuvenet.sofm import SOFM
    >>> X = load_digits().data
    >>> som = SOFM(shape=(10, 10), random_state=0).fit(X)
    >>> som.codebook_.shape, som.labels_.shape
    ((100, 64), (1797,))
    >>> bool(som.quantization_error_ < 22)
    True
    """

    _sums: Any = None  # of eq. 8, for partial_fit
    _counts: Any = None
    _calls: int | None = None  # of partial_fit, while its schedule lasts

    def __init__(
        self,
        shape=8,
        *,
        topology="rectangular",
        periodic=False,
        neighborhood="gaussian",
        sigma=None,
        decay="geometric",
        init="pca",
        n_epochs=20,
        algorithm="batch",
        learning_rate=None,
        metric="euclidean",
        missing="error",
        tol=0.0,
        callback=None,
        half_life=None,
        random_state=None,
        n_jobs=None,
        verbose=0,
    ):
        self.shape = shape
        self.topology = topology
        self.periodic = periodic
        self.neighborhood = neighborhood
        self.sigma = sigma
        self.decay = decay
        self.init = init
        self.n_epochs = n_epochs
        self.algorithm = algorithm
        self.learning_rate = learning_rate
        self.metric = metric
        self.missing = missing
        self.tol = tol
        self.callback = callback
        self.half_life = half_life
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = has_means(self.metric)
        tags.input_tags.allow_nan = self.missing == "ignore"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X, y=None, sample_weight=None):
        """Train the map.

        Parameters
        ----------
        X : array, CSR matrix, dask array or blocks, of shape (N, D)
        y : ignored
        sample_weight : array of shape (N,), optional
            A weight of 2 is a sample that occurs twice.

        Returns
        -------
        self : SOFM

        Raises
        ------
        ValueError
            A parameter is wrong, or a row of X holds NaN or infinity; the message names it.
        FloatingPointError
            The online rule let the nodes run away.

        Examples
        --------
        >>> import numpy as np
        >>> from rejuvenet.sofm import SOFM
        >>> SOFM(shape=2).fit(np.array([[0.0], [0.1], [0.9], [1.0]])).labels_
        array([0, 0, 1, 1], dtype=int32)
        """
        learner = copy(self)  # whose attributes are taken over at the end, together
        learner._train(X, sample_weight)
        self.__dict__ = dict(vars(learner))
        return self

    def _train(self, X, sample_weight) -> None:
        """:meth:`fit`, on a copy."""
        grid = parameters.grid_of(self)
        schedule = parameters.schedule_of(self, grid)
        samples = open_samples(self, X, sample_weight, reset=True).for_training()
        random = check_random_state(self.random_state)
        some, weights = samples.some()
        self.grid_, self.history_ = grid, []
        self._sums = self._counts = self._calls = None
        with threads_for(self.n_jobs, samples, grid.n_nodes) as threads, self._progress() as bar:
            self._set_codebook(
                initialization.begin(self.init, grid, samples, some, weights, random)
            )
            still = self.tol * initialization.spread(some) if self.tol > 0 else 0.0
            samples.begin(self.codebook_, threads, some)
            for epoch in range(self.n_epochs):
                sigma, alpha = (
                    decayed(*ends, epoch, self.n_epochs, self.decay)
                    for ends in (schedule.sigma, schedule.alpha)
                )
                before = self.codebook_
                if isinstance(samples, WithoutMeans):
                    codebook, error = samples.moved(before, grid, self.neighborhood, sigma)
                    self._set_codebook(codebook)
                elif self.algorithm == "batch":
                    assert isinstance(samples, Averaged)
                    self._sums, self._counts, error = samples.epoch(before)
                    h = smooth(grid, self.neighborhood, sigma, self._sums, self._counts, threads)
                    self._set_codebook(updated(before, *h))
                else:
                    codebook, error = online_epoch(
                        samples, before, grid, self.neighborhood, sigma, alpha, random
                    )
                    self._set_codebook(codebook)
                record = self._record(epoch, sigma, error / samples.total_weight)
                record["movement"] = initialization.movement(self.codebook_, before)
                self.history_.append(record)
                if bar is not None:
                    bar.set_postfix_str(f"error {record['quantization_error']:.4g}")
                    bar.update()
                if self.callback is not None and self.callback(self, record):
                    break
                if self.tol > 0 and record["movement"] <= still:
                    break
            if self.algorithm == "online":  # its nodes may have left the range of the samples
                samples.begin(self.codebook_, threads, some)
            self._finish(samples)

    @available_if(keeps_sums)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Learn from one more batch of samples.

        Sums and counts of eq. 8 are kept from call to call.  ``sigma`` falls over the first
        ``n_epochs`` calls, and while it does, older sums count half as much with every call (their
        winners are outdated).  After that, and from the first call on if the map was fitted,
        ``sigma`` stays where it ended and all samples count alike, unless ``half_life`` is given.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`fit`.

        Returns
        -------
        self : SOFM
            ``labels_`` and the errors are those of this batch.

        Raises
        ------
        ValueError
            As :meth:`fit`; or shape, topology or periodic are no longer those of the map that is
            learned.
        AttributeError
            The metric has no means, or the rule is online.

        Examples
        --------
        >>> import numpy as np
        >>> from rejuvenet.sofm import SOFM
        >>> som = SOFM(shape=2, n_epochs=2)
        >>> for batch in np.array([[[0.0], [1.0]], [[0.2], [0.8]]]):
        ...     som = som.partial_fit(batch)
        >>> som.n_iter_, som.labels_
        (2, array([0, 1], dtype=int32))
        >>> som = SOFM(shape=2).fit([[0.0], [1.0]]).partial_fit([[1.2]])  # goes on from the fit
        >>> som.codebook_.round(1).tolist()
        [[0.2], [1.0]]
        """
        learner = copy(self)
        record = learner._learn(X, sample_weight)
        learner.history_ = [*learner.history_, record]
        self.__dict__ = dict(vars(learner))
        return self

    def _learn(self, X, sample_weight) -> dict:
        """:meth:`partial_fit`, on a copy; the record of the history, which is shared until then."""
        grid = parameters.grid_of(self)
        schedule = parameters.schedule_of(self, grid)
        known = hasattr(self, "codebook_")
        if known and grid != self.grid_:
            raise ValueError(
                f"partial_fit: expected {self.grid_}, the map that is learned, got {grid}: "
                "keep the shape, topology and periodic, or make a new map"
            )
        samples = open_samples(self, X, sample_weight, reset=not known).for_training()
        assert isinstance(samples, Averaged)
        some, weights = samples.some()
        if not known:
            random = check_random_state(self.random_state)
            self.grid_, self.history_ = grid, []
            self._set_codebook(
                initialization.begin(self.init, grid, samples, some, weights, random)
            )
            self._sums, self._counts, self._calls = np.zeros(()), np.zeros((1, 1)), 0
        elif self._sums is None:  # an older version saved what the online rule had learned
            hits = np.bincount(self.labels_, minlength=grid.n_nodes)[:, None].astype(np.float64)
            self._sums, self._counts = self.codebook_ * hits, hits
        calls = self._calls
        if calls is None:  # the map was fitted: on from where its schedule ended
            calls, sigma = self.n_epochs, self.history_[-1]["sigma"]
        else:
            epoch = min(calls, self.n_epochs - 1)
            sigma = decayed(*schedule.sigma, epoch, self.n_epochs, self.decay)
        codebook = self.codebook_.astype(samples.dtype)
        with threads_for(self.n_jobs, samples, grid.n_nodes) as threads:
            samples.begin(codebook, threads, some)
            sums, counts, error = samples.epoch(codebook)
            memory = 0.5 if calls < self.n_epochs else 1.0
            if self.half_life is not None:
                memory *= 0.5 ** (samples.total_weight / self.half_life)
            self._sums = memory * self._sums + sums
            old = self._counts.reshape(len(self._counts), -1)
            self._counts = memory * old + counts.reshape(grid.n_nodes, -1)
            if self._calls is not None:
                self._calls += 1
            h = smooth(
                grid, self.neighborhood, sigma, self._sums, self._counts, threads
            )
            self._set_codebook(updated(codebook, *h))
            record = self._record(len(self.history_), sigma, error / samples.total_weight)
            self._finish(samples)
            self.n_iter_ += 1
        return record

    def _set_codebook(self, codebook) -> None:
        if self.metric == "correlation":
            codebook = codebook - codebook.mean(axis=1, keepdims=True)
        if self.metric in ("cosine", "correlation"):
            lengths = np.linalg.norm(codebook, axis=1, keepdims=True)
            codebook = codebook / np.where(lengths == 0, 1, lengths)
        self.codebook_ = codebook
        self._n_features_out = len(codebook)

    def _record(self, epoch: int, sigma: float, error: float) -> dict:
        """An entry of the history."""
        return {"epoch": epoch, "sigma": sigma, "quantization_error": float(error)}

    def _finish(self, samples: Samples) -> None:
        """Attributes that belong to the final codebook."""
        nearest, error = samples.nearest(self.codebook_, 2)
        self.labels_ = samples.labels(nearest, self.codebook_.astype(samples.dtype))
        self.n_iter_ = len(self.history_)
        self.quantization_error_ = float(error / samples.total_weight)
        self.topographic_error_ = self.grid_.share_apart(nearest, samples.weights)
        if self.algorithm == "online":  # which keeps no sums
            hits = np.bincount(nearest[:, 0], samples.weights, self.grid_.n_nodes)[:, None]
            self._sums, self._counts = self.codebook_ * hits, hits

    def _progress(self):
        if not self.verbose:
            return nullcontext()
        from tqdm.auto import tqdm

        return tqdm(total=self.n_epochs, desc="SOFM", unit="epoch")
