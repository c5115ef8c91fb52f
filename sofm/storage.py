"""A map in one ``.npz`` file, without pickle.

===================  =================================================================
``format``           ``"rejuvenet.sofm"``
``version``          of this layout, an integer; files of later versions are refused
``parameters``       JSON of the constructor's parameters
``init``             the initial codebook, where ``init`` was an array
``state``            JSON of the learned numbers, of the history and of ``set_output``
``codebook_`` ...    learned arrays under their own names
``arrays``           JSON of the type and shape of each of these; since version 2
===================  =================================================================

A ``callback`` and a ``RandomState`` object are not data and are left out (None on loading).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..files import read_arrays, written_beside
from .parameters import INITS, grid_of, initial_array, schedule_of, wrong

FORMAT, VERSION = "rejuvenet.sofm", 2
ARRAYS = ("codebook_", "labels_", "_sums", "_counts", "feature_names_in_")
NUMBERS = (
    "quantization_error_", "topographic_error_", "n_iter_", "n_features_in_", "history_", "_calls",
    "_sklearn_output_config",
)  # fmt: skip
OPTIONAL = {"_sums", "_counts", "_calls", "feature_names_in_", "_sklearn_output_config"}


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

    Raises
    ------
    ValueError
        The metric is a callable.
    """
    parameters = estimator.get_params(deep=False)
    if callable(parameters["metric"]):
        raise wrong("metric", "one with a name, which a file can hold", parameters["metric"])
    parameters["callback"] = None
    if isinstance(parameters["random_state"], np.random.RandomState):
        parameters["random_state"] = None
    learned = [name for name in ARRAYS if getattr(estimator, name, None) is not None]
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
        arrays=np.array(json.dumps({name: _kind(array) for name, array in arrays.items()})),
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
    try:
        content = read_arrays(path)
    except ValueError as error:
        raise _unreadable(path, error) from None
    if str(content.get("format")) != FORMAT:
        raise ValueError(f"expected a map of SOFM.save, got something else in {path}")
    try:
        version = int(content["version"])
        if version <= VERSION:
            return _restored(cls, content, version)
    except Exception as error:  # values of any other type than they should have
        raise _unreadable(path, error) from None
    raise ValueError(
        f"expected format version {VERSION} or older, got {version} in {path}: update rejuvenet"
    )


def _unreadable(path, error: Exception) -> ValueError:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    reason = " ".join(f"{kind}{error}".split())
    return ValueError(f"expected a map of SOFM.save, cannot read {path}: {reason}")


def _restored(cls, content: dict, version: int):
    """The estimator of a file's arrays, all of which are checked.

    Raises
    ------
    ValueError
        With what is wrong.
    """
    expected = {"format", "version", "parameters", "state", "arrays", "init", *ARRAYS}
    if unknown := sorted(content.keys() - expected):
        raise ValueError(f"expected no part {unknown[0]!r}")
    if version > 1:
        told = json.loads(str(content["arrays"]))
        found = {name: _kind(content[name]) for name in ("init", *ARRAYS) if name in content}
        _expect("arrays", found == told, f"{told}", found)
    given = json.loads(str(content["parameters"]))
    known = cls._get_param_names()
    full = set(given) | {"init"} == set(known)
    if not (full or (version < 2 and set(given) <= set(known))):
        raise ValueError(f"expected the parameters {', '.join(known)}, got {', '.join(given)}")
    for name in ("shape", "sigma", "learning_rate"):
        if isinstance(given[name], list):
            given[name] = tuple(given[name])
    if "init" in content:
        given["init"] = content["init"]
    estimator = cls(**given)
    state = json.loads(str(content["state"]))
    learned = {name: content[name] for name in ARRAYS if name in content} | state
    if unknown := sorted(learned.keys() - {*ARRAYS, *NUMBERS}):
        raise ValueError(f"expected no learned attribute {unknown[0]!r}")
    needed = {*ARRAYS, *NUMBERS} - OPTIONAL | ({"_calls"} if version > 1 else set())
    if missing := sorted(needed - learned.keys()):
        raise KeyError(", ".join(missing))
    check_parameters(estimator, learned)
    for name, value in learned.items():
        text = isinstance(value, np.ndarray) and value.dtype.kind == "U"
        setattr(estimator, name, value.astype(object) if text else value)
    estimator.grid_ = grid_of(estimator)
    estimator._n_features_out = len(estimator.codebook_)
    return estimator


def check_parameters(estimator, learned: dict) -> None:
    """Raise ValueError unless parameters and learned values belong to one map."""
    grid = grid_of(estimator)
    schedule_of(estimator, grid)
    seed = estimator.random_state
    _expect("random_state", seed is None or _is_count(seed), "a number or None", seed)
    verbose = estimator.verbose
    _expect("verbose", isinstance(verbose, int) and verbose >= 0, "a number from 0", verbose)
    D = learned["n_features_in_"]
    _expect("n_features_in_", _is_count(D) and D > 0, "a positive number", D)
    if isinstance(estimator.init, str):
        _expect("init", estimator.init in INITS, " or ".join(INITS), estimator.init)
    else:
        initial_array(estimator.init, grid, D, np.float64)
    unobserved = estimator.missing == "ignore"  # a feature that no sample had
    K = grid.n_nodes
    shapes_of: dict[str, set[tuple[int, ...]]] = {
        "codebook_": {(K, D)}, "_sums": {(K, D), ()}, "_counts": {(K, D), (K, 1), (K,), ()}
    }  # fmt: skip
    for name, shapes in shapes_of.items():
        if name not in learned:
            continue
        array = learned[name]
        _expect(
            name, array.dtype.kind == "f" and array.shape in shapes,
            f"numbers of shape {max(shapes)}", f"{array.dtype} {array.shape}",
        )  # fmt: skip
        good = np.isfinite(array) | (np.isnan(array) & unobserved)
        _expect(name, bool(good.all()), "finite numbers", "NaN or infinity")
        _expect(name, name != "_counts" or bool((array >= 0).all()), "no negative number", "one")
    labels = learned["labels_"]
    good = labels.ndim == 1 and labels.dtype.kind == "i"
    good = good and (not labels.size or bool(labels.min() >= 0 and labels.max() < K))
    _expect("labels_", good, f"numbers below {K}", f"{labels.dtype} {labels.shape}")
    for name in ("quantization_error_", "topographic_error_"):
        _expect(name, _is_number(learned[name]), "a number from 0", learned[name])
    epochs, calls = learned["n_iter_"], learned.get("_calls")
    _expect("n_iter_", _is_count(epochs), "a number of epochs", epochs)
    _expect("_calls", calls is None or _is_count(calls), "a number of batches or None", calls)
    _check_history(learned["history_"], epochs)
    _expect("_counts", ("_sums" in learned) == ("_counts" in learned), "sums and counts", "one")
    config = learned.get("_sklearn_output_config", {})
    good = isinstance(config, dict) and set(config) <= {"transform"}
    good = good and set(config.values()) <= {"default", "pandas", "polars"}
    _expect("_sklearn_output_config", good, "what set_output sets", config)
    if "feature_names_in_" in learned:
        names = learned["feature_names_in_"]
        good = names.shape == (D,) and names.dtype.kind == "U" and len(set(names)) == D
        _expect("feature_names_in_", good, f"{D} different names", f"{names.dtype} {names.shape}")


def _check_history(history, n: int) -> None:
    """Records of ``fit`` say how far the nodes moved, those of ``partial_fit`` after it do not."""
    _expect("history_", isinstance(history, list) and len(history) == n, f"{n} epochs", history)
    least, batches = {"epoch", "sigma", "quantization_error"}, False
    for record in history:
        good = isinstance(record, dict) and least <= record.keys() <= least | {"movement"}
        good = good and not (batches and "movement" in record) and _is_count(record["epoch"])
        good = good and all(map(_is_number, record.values()))
        _expect("history_", good, f"{', '.join(sorted(least))} and movement", record)
        batches = "movement" not in record


def _kind(array: np.ndarray) -> list:
    """Type and shape, for JSON."""
    return [array.dtype.str, list(array.shape)]


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < np.inf


def _expect(name: str, good: bool, expected: str, got) -> None:
    if not good:
        raise wrong(name, expected, got)
