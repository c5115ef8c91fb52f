"""Maps that predict and that fill missing values, beside other tools; what the end of sigma trades.

    python tests/benchmarks/sofm_supervised.py           # what is installed, about 2 minutes
    python tests/benchmarks/sofm_supervised.py --table   # tables of the tutorial, from the JSON

Data come with scikit-learn (digits, breast cancer, diabetes; friedman1 is synthetic, of 1,000
samples); features are standardized, digits for the end of sigma are not.  All maps have the same
shape, that of ``suggest_shape``.  Seconds are processor time.

*predict*: accuracy or R2 of five-fold cross-validation, shuffled.  SOFM with the default options,
and without targets in the map (``target_weight=0``), with two ends of sigma; susi with 10,000
iterations of each kind, as in its examples; MiniSom as in its example of a classification: the most
frequent class (for regression: the mean) of the winner's samples, and of all samples where it won
none, with its default options, "pca" and 20 epochs; five nearest neighbours.

*impute*: root mean square error of values removed at random, in standard deviations of the column.
SOFM by default and with a wider end of sigma; IntraSOM by default (hexagonal torus, of the same
shape); scikit-learn's KNNImputer; means of columns.

*sigma*: errors of a 10 x 10 map of digits, by the end of sigma, and of MiniSom's as above; held-out
figures are of a fifth that the map did not see.

The peers come from PyPI: susi, minisom, intrasom.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from pathlib import Path

import numpy as np
from rejuvenet.sofm import (
    SOFM,
    SOMClassifier,
    SOMRegressor,
    quantization_error,
    suggest_shape,
    topographic_error,
)
from sklearn.base import BaseEstimator
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_friedman1
from sklearn.impute import KNNImputer
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

RESULTS = Path(__file__).parent / "results" / "sofm_supervised.json"
SHARES = (0.1, 0.3)
SIGMA_ENDS = (1.0, 0.7, 0.5, 0.3, 0.1)


def installed(*names: str) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name)]


def data() -> dict:
    """Samples and targets; whether these are classes."""
    return {
        "digits": (*load_digits(return_X_y=True), True),
        "breast cancer": (*load_breast_cancer(return_X_y=True), True),
        "diabetes": (*load_diabetes(return_X_y=True), False),
        "friedman1": (*make_friedman1(1000, noise=1.0, random_state=0), False),
    }


class MiniSomRecipe(BaseEstimator):
    """``labels_map`` of a trained MiniSom, and the default for nodes that won nothing."""

    def __init__(self, shape, classes: bool) -> None:
        self.shape, self.classes = shape, classes

    def fit(self, X, y):
        from minisom import MiniSom

        sides = [int(n) for n in self.shape]
        self.som = MiniSom(*sides, X.shape[1], random_seed=0)
        self.som.pca_weights_init(X)
        self.som.train(X, 20, use_epochs=True)
        answer = (lambda v: np.bincount(v).argmax()) if self.classes else np.mean
        won: dict = {}
        for x, value in zip(X, y, strict=True):
            won.setdefault(self.som.winner(x), []).append(value)
        self.answers = {node: answer(values) for node, values in won.items()}
        self.default = answer(y)
        return self

    def predict(self, X):
        return np.array([self.answers.get(self.som.winner(x), self.default) for x in X])


def predictors(shape, classes: bool) -> dict:
    """Untrained estimators by name."""
    ours = SOMClassifier if classes else SOMRegressor
    found = {
        "SOFM here": ours(SOFM(shape)),
        "SOFM here, target_weight=0": ours(SOFM(shape), target_weight=0.0),
        "SOFM here, target_weight=0, sigma=(None, 0.3)": ours(
            SOFM(shape, sigma=(None, 0.3)), target_weight=0.0
        ),
        "5 nearest neighbours": (KNeighborsClassifier if classes else KNeighborsRegressor)(),
    }
    if installed("susi"):
        import susi

        kind = susi.SOMClassifier if classes else susi.SOMRegressor
        found["susi"] = kind(
            *map(int, shape), n_iter_unsupervised=10_000, n_iter_supervised=10_000, random_state=0
        )
    if installed("minisom"):
        found["MiniSom, recipe"] = MiniSomRecipe(shape, classes)
    return found


def predict() -> list[dict]:
    rows = []
    for name, (X, y, classes) in data().items():
        X = StandardScaler().fit_transform(X)
        folds = (StratifiedKFold if classes else KFold)(5, shuffle=True, random_state=0)
        score = accuracy_score if classes else r2_score
        shape = suggest_shape(X)
        for tool, estimator in predictors(shape, classes).items():
            scores, started = [], time.process_time()
            for train, test in folds.split(X, y):
                found = np.ravel(estimator.fit(X[train], y[train]).predict(X[test]))
                scores.append(float(score(y[test], found)))
            rows.append({
                "task": "predict", "data": name, "tool": tool, "shape": shape, "scores": scores,
                "measure": score.__name__, "seconds": time.process_time() - started,
            })  # fmt: skip
            print(f"{name}: {tool} {np.mean(scores):.3f}", flush=True)
    return rows


def by_intrasom(X, shape):
    from intrasom import SOMFactory

    rows = shape[0] + shape[0] % 2
    som = SOMFactory.build(
        X, mapsize=(int(shape[1]), int(rows)), missing=True, normalization="var",
        component_names=[f"x{i}" for i in range(X.shape[1])],
    )  # fmt: skip
    som.train(save=False, summary=False, n_job=1)
    return som.imput_missing(save=False).to_numpy(float)


def imputers(shape) -> dict:
    """Functions from samples with NaN to samples without."""

    def ours(**options):
        return lambda X: SOFM(shape, missing="ignore", **options).fit(X).impute(X)

    found = {
        "SOFM here": ours(),
        "SOFM here, sigma=(None, 1)": ours(sigma=(None, 1.0)),
        "KNNImputer": lambda X: KNNImputer().fit_transform(X),
        "means": lambda X: np.where(np.isnan(X), np.nanmean(X, axis=0), X),
    }
    if installed("intrasom"):
        found["IntraSOM"] = lambda X: by_intrasom(X, shape)
    return found


def impute() -> list[dict]:
    rows = []
    for name, (X, _, _) in data().items():
        if name == "friedman1":  # independent features: nothing to learn
            continue
        X = StandardScaler().fit_transform(X)
        for share in SHARES:
            lost = np.random.default_rng(0).random(X.shape) < share
            holes = np.where(lost, np.nan, X)
            shape = suggest_shape(holes, missing="ignore")
            for tool, fill in imputers(shape).items():
                started = time.process_time()
                error = float(np.sqrt(((fill(holes.copy()) - X)[lost] ** 2).mean()))
                rows.append({
                    "task": "impute", "data": name, "share": share, "tool": tool, "shape": shape,
                    "error": error, "seconds": time.process_time() - started,
                })  # fmt: skip
                print(f"{name}, {share:.0%} lost: {tool} {error:.3f}", flush=True)
    return rows


def sigma() -> list[dict]:
    X, y = load_digits(return_X_y=True)
    train = np.random.default_rng(0).random(len(X)) < 0.8

    def row(tool: str, som, **more) -> dict:
        model = SOMClassifier(som, target_weight=0).fit(X[train], y[train])
        return {
            "task": "sigma", "tool": tool, "quantization error": quantization_error(som, X),
            "topographic error": topographic_error(som, X),
            "held-out error": -model.som_.score(X[~train]),
            "held-out accuracy": float(model.score(X[~train], y[~train])), **more,
        }  # fmt: skip

    rows = [
        row("SOFM here", SOFM((10, 10), sigma=(None, end)).fit(X), end=end) for end in SIGMA_ENDS
    ]
    if installed("minisom"):
        from minisom import MiniSom

        other = MiniSom(10, 10, 64, random_seed=0)
        other.pca_weights_init(X)
        other.train(X, 20, use_epochs=True)
        rows.append({
            "task": "sigma", "tool": "MiniSom", "quantization error": other.quantization_error(X),
            "topographic error": float(other.topographic_error(X)),
        })  # fmt: skip
    return rows


def table(rows: list[dict], columns: list, cell) -> str:
    """Tools by columns."""
    lines = ["| tool | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for tool in dict.fromkeys(row["tool"] for row in rows):
        mine = [cell([r for r in rows if r["tool"] == tool], column) for column in columns]
        lines.append(f"| {tool} | " + " | ".join(mine) + " |")
    return "\n".join(lines)


def show(rows: list[dict]) -> None:
    of = {task: [r for r in rows if r["task"] == task] for task in ("predict", "impute", "sigma")}

    def scored(mine, name):
        found = [r for r in mine if r["data"] == name]
        return f"{np.mean(found[0]['scores']):.3f} ({found[0]['seconds']:.2f} s)" if found else ""

    print(table(of["predict"], list(dict.fromkeys(r["data"] for r in of["predict"])), scored))

    def filled(mine, column):
        found = [r for r in mine if f"{r['data']}, {r['share']:.0%}" == column]
        return f"{found[0]['error']:.2f}" if found else ""

    columns = list(dict.fromkeys(f"{r['data']}, {r['share']:.0%}" for r in of["impute"]))
    print("\n" + table(of["impute"], columns, filled))
    measures = [m for m in of["sigma"][0] if "error" in m or "accuracy" in m]
    print("\n| map | " + " | ".join(measures) + " |\n| --- |" + " --- |" * len(measures))
    for row in of["sigma"]:
        name = f"`sigma=(None, {row['end']})`" if "end" in row else row["tool"]
        values = (f"{row[m]:.2f}" if m in row else "" for m in measures)
        print(f"| {name} | " + " | ".join(values) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true")
    if not parser.parse_args().table:
        rows = predict() + impute() + sigma()
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    show(json.loads(RESULTS.read_text()))


if __name__ == "__main__":
    main()
