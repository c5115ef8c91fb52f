"""Writes ``sofm_gallery.md`` and its pictures: every picture is made by the code that stands by it.

python tutorials/sofm_gallery.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

HERE = Path(__file__).parent
PAGE, PICTURES = HERE / "sofm_gallery.md", HERE / "pictures"
OPENING = """# What a map looks like

Every picture is made by the code beside it (`python tutorials/sofm_gallery.py` makes this page);
`plots` needs matplotlib. All functions take `ax=` to draw into a figure of your own, and cells are
squares or hexagons as the map's are.
"""
START = """
import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits, load_wine
from sklearn.preprocessing import StandardScaler
from rejuvenet.sofm import SOFM, SOMClassifier, cluster_nodes, plots

X, y = load_digits(return_X_y=True)
som = SOFM((10, 10), topology="hexagonal", random_state=0).fit(X)
"""
# name: title, text, code whose last statement leaves the picture in plt.gcf()
SECTIONS: dict[str, tuple[str, str, str]] = {
    "classes": (
        "Which digit is where",
        "The most frequent class of every node.",
        "plots.class_map(som, X, y)",
    ),
    "u_matrix": (
        "Ridges part clusters",
        "The U-matrix: how far every node is from those that touch it.",
        "plots.u_matrix(som)",
    ),
    "clusters": (
        "Nodes merged into clusters",
        "Each cluster is connected on the map; no label is used.",
        'plots.cells(som.grid_, cluster_nodes(som, 10), cmap="tab10")',
    ),
    "hits": ("How many samples a node wins", "Grey: none.", "plots.hits(som)"),
    "nodes": (
        "The nodes themselves",
        "Nodes side by side are alike; here each is an image of 8 x 8.",
        """
fig, axes = plt.subplots(10, 10, figsize=(4, 4), gridspec_kw=dict(wspace=0.05, hspace=0.05))
for node, ax in zip(som.codebook_, axes.ravel()):
    ax.imshow(node.reshape(8, 8), cmap="gray_r")
    ax.axis("off")
""",
    ),
    "activation": (
        "One sample on the map",
        "Its distance to every node, and the one that wins it.",
        "plots.activation(som, X[0])",
    ),
    "outliers": (
        "What does not belong",
        "`score_samples` is minus the distance to a sample's node. The sixteen digits with the "
        "lowest scores:",
        """
scores = som.score_samples(X)
fig, axes = plt.subplots(2, 8, figsize=(5, 1.6))
for i, ax in zip(np.argsort(scores)[:16], axes.ravel()):
    ax.imshow(X[i].reshape(8, 8), cmap="gray_r")
    ax.set_title(y[i], fontsize=7, pad=2)
    ax.axis("off")
""",
    ),
    "probability": (
        "A map that predicts",
        "The probability of an eight at every node of a `SOMClassifier`; nodes that won nothing "
        "answer as their neighbours do.",
        """
model = SOMClassifier(som).fit(X, y)
plots.cells(som.grid_, model.node_probabilities_[:, 8], cmap="magma", label="P(8)")
""",
    ),
    "imputation": (
        "Missing values",
        "Digits, the same with 40% of the pixels lost, and what `impute` puts in their place.",
        """
holes = np.where(np.random.default_rng(0).random(X.shape) < 0.4, np.nan, X)
filled = SOFM((14, 15), missing="ignore").fit(holes).impute(holes)
fig, axes = plt.subplots(3, 8, figsize=(5, 2))
for row, images in zip(axes, (X, holes, filled)):
    for image, ax in zip(images, row):
        ax.imshow(image.reshape(8, 8), cmap="gray_r")
        ax.axis("off")
""",
    ),
    "planes": (
        "Features over the map",
        "Component planes of wines by name: what rises and falls together. Columns are scaled "
        "first, else proline, in hundreds, would be all that counts.",
        """
frame = load_wine(as_frame=True).data
scaler = StandardScaler().set_output(transform="pandas")
wines = SOFM((7, 10), topology="hexagonal").fit(scaler.fit_transform(frame))
plots.component_planes(wines, ["alcohol", "malic_acid", "flavanoids", "color_intensity", "hue",
                               "proline"], columns=3)
""",
    ),
    "names": (
        "Names in cells",
        'Capitals on a map of the globe: `metric="haversine"` measures arcs, and a node stands at '
        "the mean direction of its samples.",
        """
capitals = {
    "Lima": (-12, -77), "Bogota": (5, -74), "Quito": (0, -78), "Santiago": (-33, -71),
    "Ottawa": (45, -76), "Havana": (23, -82), "Mexico City": (19, -99), "Dakar": (15, -17),
    "Accra": (6, 0), "Nairobi": (-1, 37), "Lusaka": (-15, 28), "Cairo": (30, 31),
    "Rome": (42, 12), "Madrid": (40, -4), "Paris": (49, 2), "Oslo": (60, 11), "Delhi": (29, 77),
    "Hanoi": (21, 106), "Beijing": (40, 116), "Tokyo": (36, 140), "Manila": (15, 121),
    "Jakarta": (-6, 107), "Canberra": (-35, 149), "Wellington": (-41, 175), "Suva": (-18, 178),
    "Apia": (-14, -172),
}
places = np.radians(list(capitals.values()))
globe = SOFM((4, 5), topology="hexagonal", metric="haversine", n_epochs=40).fit(places)
plots.sample_names(globe, places, capitals)
""",
    ),
    "sizes": (
        "How many nodes",
        "`errors_by_size` trains maps of a quarter to four times the nodes of `suggest_shape(X)`.",
        "plots.errors_by_size(SOFM(), X)",
    ),
    "training": (
        "How it learned",
        "The error and the width of the neighbourhood, epoch by epoch.",
        "plots.training(som)",
    ),
}  # fmt: skip


def page() -> str:
    """The text of the page."""
    parts = [OPENING, f"```python\n{START.strip()}\n```\n"]
    for name, (title, text, code) in SECTIONS.items():
        parts.append(f"## {title}\n\n{text}\n\n```python\n{code.strip()}\n```\n")
        parts.append(f"![{title}](pictures/{name}.png)\n")
    return "\n".join(parts)


def draw() -> None:
    """All pictures, by the code of the page."""
    import matplotlib
    from matplotlib import pyplot as plt

    matplotlib.use("agg")
    matplotlib.rcParams.update({"figure.figsize": (4.2, 3.4), "savefig.dpi": 100, "font.size": 8})
    PICTURES.mkdir(exist_ok=True)
    names: dict = {}
    exec(START, names)
    for name, (_, _, code) in SECTIONS.items():
        exec(code, names)
        plt.gcf().savefig(PICTURES / f"{name}.png", bbox_inches="tight")
        plt.close("all")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    draw()
    PAGE.write_text(page())
