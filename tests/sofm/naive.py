"""Slow, obvious twins of the package's kernels and measures."""

import math

import numpy as np


def squared_distances(X, W):
    """All squared distances in float64, difference by difference."""
    X, W = np.asarray(X, np.float64), np.asarray(W, np.float64)
    return np.stack([((X - w) ** 2).sum(axis=1) for w in W], axis=1)


def distances(X, W):
    """All distances, over the features that both have; :func:`math.dist` knows no overflow."""
    D = X.shape[1]
    table = np.full((len(X), len(W)), np.nan)
    for i, x in enumerate(np.asarray(X, np.float64)):
        for k, w in enumerate(np.asarray(W, np.float64)):
            both = ~(np.isnan(x) | np.isnan(w))
            if both.any():
                table[i, k] = math.dist(x[both], w[both]) * math.sqrt(D / both.sum())
    return table


def winners(X, W):
    return squared_distances(X, W).argmin(axis=1)


def is_winner(X, W, labels):
    """Whether every label is a nearest node, up to the rounding of a float64 sum."""
    d = squared_distances(X, W)
    chosen = d[np.arange(len(d)), labels]
    return bool((chosen <= d.min(axis=1) * (1 + 1e-13)).all())


def sums_and_counts(X, labels, K, weights=None):
    weights = np.ones(len(X)) if weights is None else weights
    S, n = np.zeros((K, X.shape[1])), np.zeros(K)
    for x, b, weight in zip(np.asarray(X, np.float64), labels, weights, strict=True):
        S[b] += weight * x
        n[b] += weight
    return S, n


def scores(x, W, bias):
    return bias[None, :] - np.asarray(x, np.float64) @ np.asarray(W, np.float64).T


def place(k, rows, columns, hexagonal):
    row, column = divmod(k, columns)
    if hexagonal:
        return row * math.sqrt(3) / 2, column + 0.5 * (row % 2)
    return float(row), float(column)


def grid_distance(a, b, rows, columns, hexagonal=False, periodic=False):
    """Shortest way between two nodes, trying every copy of a periodic map."""
    ya, xa = place(a, rows, columns, hexagonal)
    yb, xb = place(b, rows, columns, hexagonal)
    height = rows * (math.sqrt(3) / 2 if hexagonal else 1)
    turns = (-1, 0, 1) if periodic else (0,)
    return min(
        math.hypot(ya - yb + i * height, xa - xb + j * columns) for i in turns for j in turns
    )


def h(name, d, sigma):
    if name == "gaussian":
        return math.exp(-d * d / (2 * sigma * sigma))
    if name == "exponential":
        return math.exp(-d / sigma)
    if name == "bubble":
        return 1.0 if d <= sigma else 0.0
    if name == "epanechnikov":
        return max(0.0, 1 - (d / sigma) ** 2)
    if name == "cut_gaussian":
        return math.exp(-d * d / (2 * sigma * sigma)) if d <= sigma else 0.0
    return (1 - (d / sigma) ** 2) * math.exp(-d * d / (2 * sigma * sigma))


def neighborhood_matrix(name, sigma, rows, columns, hexagonal=False, periodic=False):
    K = rows * columns
    return np.array(
        [
            [h(name, grid_distance(a, b, rows, columns, hexagonal, periodic), sigma)
             for b in range(K)]
            for a in range(K)
        ]
    )  # fmt: skip


def batch_epoch(X, W, H, weights=None):
    """Eq. 8 sample by sample."""
    weights = np.ones(len(X)) if weights is None else weights
    numerator, denominator = np.zeros(W.shape), np.zeros(len(W))
    for x, b, weight in zip(np.asarray(X, np.float64), winners(X, W), weights, strict=True):
        for k in range(len(W)):
            numerator[k] += weight * H[k, b] * x
            denominator[k] += weight * H[k, b]
    new = np.array(W, np.float64)
    alive = denominator > 0
    new[alive] = numerator[alive] / denominator[alive][:, None]
    return new


def online_epoch(X, order, W, H, alpha):
    """Eq. 6 sample by sample."""
    W = np.array(W, np.float64)
    for i in order:
        b = int(((W - X[i]) ** 2).sum(axis=1).argmin())
        for k in range(len(W)):
            W[k] += alpha * H[k, b] * (X[i] - W[k])
    return W


def missing_winners(X, W):
    labels = []
    for x in X:
        seen = ~np.isnan(x)
        labels.append(int(((W[:, seen] - x[seen]) ** 2).sum(axis=1).argmin()))
    return np.array(labels)


def topographic_error(X, W, adjacent):
    wrong = 0
    for d in squared_distances(X, W):
        a, b = np.argsort(d, kind="stable")[:2]
        wrong += not adjacent(a, b)
    return wrong / len(X)


def distortion(X, W, H):
    d = squared_distances(X, W)
    return float(np.mean([H[row.argmin()] @ row for row in d]))


def explained_variance(X, W):
    """Over the values that are there."""
    W = W[[np.nansum((W - x) ** 2, axis=1).argmin() for x in X]]
    return 1 - np.nansum((X - W) ** 2) / np.nansum((X - np.nanmean(X, axis=0)) ** 2)


def u_matrix(W, adjacent):
    means = []
    for a, w in enumerate(W):
        near = [math.dist(w, v) for b, v in enumerate(W) if b != a and adjacent(a, b)]
        means.append(sum(near) / len(near))
    return np.array(means)


def topographic_product(W, grid_distances):
    K = len(W)
    total = 0.0
    for j in range(K):
        others = [k for k in range(K) if k != j]
        space = {k: math.dist(W[j], W[k]) for k in others}
        by_space = sorted(others, key=lambda k: (space[k], k))
        by_map = sorted(others, key=lambda k: (grid_distances[j][k], k))
        product = 1.0
        for k in range(1, K):
            a, b = by_map[k - 1], by_space[k - 1]
            product *= space[a] / space[b] * grid_distances[j][a] / grid_distances[j][b]
            total += math.log(product) / (2 * k)
    return total / (K * (K - 1))


def trust(X, places, k, intruders, distances=False):
    """Venna & Kaski: rank penalties of samples near on the map but not in the data, or reverse.

    ``X`` holds samples, or their ``distances``.  Ties have all their ranks in turn.
    """
    N = len(X)
    total = 0.0
    for i in range(N):
        data = X[i] if distances else [math.dist(X[i], X[j]) for j in range(N)]
        on_map = [places[i][j] for j in range(N)]

        def ranks(distances, j, i=i):
            others = [distances[m] for m in range(N) if m != i]
            nearer = sum(d < distances[j] - 1e-9 for d in others)
            ties = sum(abs(d - distances[j]) <= 1e-9 or d == distances[j] for d in others)
            return range(nearer + 1, nearer + ties + 1)

        near, far = (on_map, data) if intruders else (data, on_map)
        for j in range(N):
            if j == i:
                continue
            p = sum(rank <= k for rank in ranks(near, j)) / len(ranks(near, j))
            if p:
                beyond = [max(0, rank - k) for rank in ranks(far, j)]
                total += p * sum(beyond) / len(beyond)
    return 1 - 2 * total / (N * k * (2 * N - 3 * k - 1))
