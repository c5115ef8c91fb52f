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
import zipfile
from typing import Any

import numpy as np

from ..files import written_beside

FORMAT, VERSION = "rejuvenet.sofm", 1
ARRAYS = ("codebook_", "labels_", "_sums", "_counts", "feature_names_in_")
NUMBERS = (
    "quantization_error_", "topographic_error_", "n_iter_", "n_features_in_", "history_", "_calls",
)  # fmt: skip


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
    """A fitted ``cls`` from a file of :func:`save`."""
    from .parameters import grid_of

    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"expected a map of SOFM.save, cannot read {path}: {error}") from None
    if str(content.get("format")) != FORMAT:
        raise ValueError(f"expected a map saved by SOFM.save, got something else in {path}")
    if int(content["version"]) > VERSION:
        raise ValueError(
            f"expected format version {VERSION} or older, got {int(content['version'])} in {path}: "
            "update rejuvenet"
        )
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
    estimator._n_features_out = len(estimator.codebook_)
    return estimator
