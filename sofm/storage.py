"""A map in one ``.npz`` file, without pickle.

===================  =================================================================
``format``           ``"rejuvenet.sofm"``
``version``          of this layout, an integer; files of later versions are refused
``parameters``       JSON of the constructor's parameters
``init``             the initial codebook, where ``init`` was an array
``state``            JSON of the learned numbers and of the history
``codebook_`` ...    learned arrays under their own names
===================  =================================================================

A ``callback`` and a ``RandomState`` object are not data and are left out (None on loading).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..files import written_beside

FORMAT, VERSION = "rejuvenet.sofm", 1
ARRAYS = ("codebook_", "labels_", "_sums", "_counts", "feature_names_in_")
NUMBERS = (
    "quantization_error_", "topographic_error_", "n_iter_", "n_features_in_", "history_", "_calls",
)  # fmt: skip
OPTIONAL = {"_sums", "_counts", "_calls", "feature_names_in_"}


def _plain(value):
    """Numpy numbers as Python's, for JSON."""
    return value.item() if isinstance(value, np.generic) else list(value)


def save(estimator, path) -> None:
    """Write beside the target, then rename: a failure leaves no half-written file.

    Parameters
    ----------
    estimator : SOFM
        Fitted.
    path : str or Path
        As given; no ending is added.
    """
    parameters = estimator.get_params(deep=False)
    parameters["callback"] = None
    if isinstance(parameters["random_state"], np.random.RandomState):
        parameters["random_state"] = None
    learned = [name for name in ARRAYS if hasattr(estimator, name)]
    arrays: dict[str, Any] = {name: np.asarray(getattr(estimator, name)) for name in learned}
    if "feature_names_in_" in arrays:
        arrays["feature_names_in_"] = arrays["feature_names_in_"].astype(str)
    if not isinstance(parameters["init"], str):
        arrays["init"] = np.asarray(parameters.pop("init"))
    state = {n: getattr(estimator, n) for n in NUMBERS if hasattr(estimator, n)}
    arrays.update(
        format=np.array(FORMAT),
        version=np.array(VERSION),
        parameters=np.array(json.dumps(parameters, default=_plain)),
        state=np.array(json.dumps(state, default=_plain)),
    )
    with written_beside(path) as beside, open(beside, "wb") as file:
        np.savez(file, **arrays)


def load(cls, path):
    """A fitted ``cls`` from a file of :func:`save`.

    Raises
    ------
    ValueError
        The file is none of ours, damaged, or of a later version.
    OSError
        There is no such file, or it cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                content = {name: archive[name] for name in archive.files}
        except Exception as error:  # a flipped bit can end in any error of zipfile, zlib or numpy
            raise _unreadable(path, error) from None
    if str(content.get("format")) != FORMAT:
        raise ValueError(f"expected a map of SOFM.save, got something else in {path}")
    try:
        version = int(content["version"])
        if version <= VERSION:
            return _restored(cls, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(path, error) from None
    raise ValueError(
        f"expected format version {VERSION} or older, got {version} in {path}: update rejuvenet"
    )


def _unreadable(path, error: Exception) -> ValueError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return ValueError(f"expected a map of SOFM.save, cannot read {path}: {reason}")


def _restored(cls, content: dict):
    """The estimator of a file's arrays."""
    from .parameters import grid_of

    parameters = json.loads(str(content["parameters"]))
    for name in ("shape", "sigma", "learning_rate"):
        if isinstance(parameters[name], list):
            parameters[name] = tuple(parameters[name])
    if "init" in content:
        parameters["init"] = content["init"]
    estimator = cls(**parameters)
    for name, value in json.loads(str(content["state"])).items():
        setattr(estimator, name, value)
    for name in ARRAYS:
        if name in content:
            value = content[name]
            setattr(estimator, name, value.astype(object) if value.dtype.kind == "U" else value)
    estimator.grid_ = grid_of(estimator)
    expected = estimator.grid_.n_nodes, estimator.n_features_in_
    if estimator.codebook_.shape != expected:
        raise ValueError(f"codebook_: expected shape {expected}, got {estimator.codebook_.shape}")
    learned = set(ARRAYS + NUMBERS) - OPTIONAL
    missing = sorted(name for name in learned if not hasattr(estimator, name))
    if missing:
        raise KeyError(", ".join(missing))
    estimator._n_features_out = len(estimator.codebook_)
    return estimator
