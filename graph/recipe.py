"""Recipes: every choice that the paper leaves open, by name.

:meth:`Recipe.preserving` keeps the function of the network as well as it can,
:meth:`Recipe.paper` follows the paper's words, :meth:`Recipe.comparison` is one of the methods
that the paper compares with.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

Method = Literal["sofm", "kmeans", "l1", "l2", "random"]
Assign = Literal["fingerprint", "vote", "mode"]
Outgoing = Literal["least_squares", "sum", "mean"]
Merge = Literal["mean", "medoid"]
Neighborhood = Literal["gaussian", "exponential", "bubble", "epanechnikov", "cut_gaussian"]
Decay = Literal["geometric", "linear", "asymptotic"]
MapInit = Literal["pca", "sample", "random"]
Placement = Literal["map", "in_place"]
BatchNorm = Literal["recalibrate", "merge"]
Init = Literal["match", "kaiming", "orthogonal"]
NewOutgoing = Literal["zero", "random"]
OptimizerState = Literal["merge", "reset", "keep"]
Scope = Literal["group", "layer"]


@dataclass(frozen=True)
class Recipe:
    """How to reorganize and rejuvenate a group of channels.

    Attributes
    ----------
    method : {"sofm", "kmeans", "l1", "l2", "random"}
        What decides: the paper's map; k-means in its place; the smallest BatchNorm ``|scale|``
        (Neural Rejuvenation), the smallest filter norm (DSD), or chance, which merge nothing.
    ratio : float in (0, 1]
        ``K / o``: nodes of the map, or channels kept, as a share of the channels.
    assign : {"fingerprint", "vote", "mode"}
        One sample a channel, all its class slices; one sample a slice, every class one vote
        (eq. 2); the majority node of those votes.
    outgoing : {"least_squares", "sum", "mean"}
        Consumers are refitted on calibration activations; add up; or average (eq. 4 with the
        weights ``1/n`` of section 2.3).
    merge : {"mean", "medoid"}
        A merged filter is the mean of its members, or the member nearest to the node.
    neighborhood : {"gaussian", "exponential", "bubble", "epanechnikov", "cut_gaussian"}
        Of the map; ``"exponential"`` is eq. 7 as printed.
    sigma : float or None
        Radius of the neighbourhood at the start; None leaves it to the map (``K / 2``).
    decay : {"geometric", "linear", "asymptotic"}
        How the radius shrinks, as in :class:`rejuvenet.sofm.SOFM`.
    map_init : {"pca", "sample", "random"}
        Where the codebook starts.
    epochs : int
        Of the map.
    placement : {"map", "in_place"}
        Survivors take the places 0..K-1 in the order of the map, or stay where their medoid is.
    batchnorm : {"recalibrate", "merge"}
        Statistics are merged, and then estimated again from data or left as they are.
    init : {"match", "kaiming", "orthogonal"}
        Incoming weights of new channels: the spread of the layer, ``sqrt(2 / fan_in)`` (He et
        al. 2015), or orthogonal rows (Saxe et al. 2014).
    new_outgoing : {"zero", "random"}
        Outgoing weights of new channels; zero does not change the function.
    optimizer : {"merge", "reset", "keep"}
        State of the optimizer for the weights that change.
    scope : {"group", "layer"}
        All producers of a residual stage, or the last convolution alone.
    every : int
        Epochs between two reorganizations in training (``r`` of Algorithm 1).
    stop : float in [0, 1]
        Share of the training after which none takes place any more.
    seed : int
    """

    method: Method = "sofm"
    ratio: float = 0.5
    assign: Assign = "fingerprint"
    outgoing: Outgoing = "least_squares"
    merge: Merge = "mean"
    neighborhood: Neighborhood = "gaussian"
    sigma: float | None = None
    decay: Decay = "geometric"
    map_init: MapInit = "pca"
    epochs: int = 20
    placement: Placement = "map"
    batchnorm: BatchNorm = "recalibrate"
    init: Init = "match"
    new_outgoing: NewOutgoing = "zero"
    optimizer: OptimizerState = "merge"
    scope: Scope = "group"
    every: int = 20
    stop: float = 0.75
    seed: int = 0

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for option in fields(self):
            allowed = get_args(hints[option.name])
            value = getattr(self, option.name)
            if allowed and all(isinstance(a, str) for a in allowed) and value not in allowed:
                names = ", ".join(repr(a) for a in allowed)
                raise ValueError(f"expected {option.name} to be one of {names}, got {value!r}")
        if not 0 < self.ratio <= 1:
            raise ValueError(
                f"expected ratio to be a share of the channels in (0, 1], got {self.ratio!r}"
            )
        if self.sigma is not None and not self.sigma > 0:
            raise ValueError(f"expected sigma to be positive or None, got {self.sigma!r}")
        for name in ("epochs", "every"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(
                    f"expected {name} to be an integer of at least 1, got {getattr(self, name)!r}"
                )
        if not 0 <= self.stop <= 1:
            raise ValueError(
                f"expected stop to be a share of the training in [0, 1], got {self.stop!r}"
            )
        if not (isinstance(self.seed, int) and self.seed >= 0):
            raise ValueError(f"expected seed to be an integer of at least 0, got {self.seed!r}")

    @classmethod
    def preserving(cls, **changes: Any) -> Recipe:
        """The recipe that keeps the network's function as well as it can.

        >>> Recipe.preserving(ratio=0.25).outgoing
        'least_squares'
        """
        return cls(**_known(changes))

    @classmethod
    def paper(cls, **changes: Any) -> Recipe:
        """The recipe as the paper prints it.

        >>> Recipe.paper().assign
        'vote'
        """
        printed: dict[str, Any] = {
            "assign": "vote",
            "outgoing": "mean",
            "neighborhood": "exponential",
            "map_init": "random",
            "batchnorm": "merge",
            "init": "kaiming",
            "new_outgoing": "random",
            "optimizer": "reset",
            "stop": 1.0,
        }
        return cls(**{**printed, **_known(changes)})

    @classmethod
    def comparison(cls, method: Method, **changes: Any) -> Recipe:
        """A method to compare with: survivors keep their weights, no refit of the consumers.

        >>> Recipe.comparison("l2").outgoing
        'sum'
        """
        return cls(**{"method": method, "outgoing": "sum", **_known(changes)})

    def to_dict(self) -> dict[str, Any]:
        """Options by name, ready for JSON."""
        return asdict(self)


def _known(changes: dict[str, Any]) -> dict[str, Any]:
    known = [option.name for option in fields(Recipe)]
    for name in changes:
        if name not in known:
            raise ValueError(f"expected an option of the recipe ({', '.join(known)}), got {name!r}")
    return changes
