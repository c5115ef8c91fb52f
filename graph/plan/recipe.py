"""Recipes: every choice that the paper leaves open, by name.

:meth:`Recipe.preserving` keeps the function of the network as well as it can,
:meth:`Recipe.paper` follows the paper's words, :meth:`Recipe.comparison` is a method to compare
with.

Where the options come from: the paper is Baddar et al. 2021, its equations and sections are quoted
as they are numbered there.  References beside it:

- DSD: Han et al. 2017, "DSD: Dense-Sparse-Dense Training for Deep Neural Networks".
- Kaiming initialization: He et al. 2015, "Delving Deep into Rectifiers".
- Neural Rejuvenation: Qiao et al. 2019, "Neural Rejuvenation: Improving Deep Network Training by
  Enhancing Computational Resource Utilization".
- Orthogonal initialization: Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of
  learning in deep linear neural networks".
- ReDo: Sokar et al. 2023, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning".
- RePr: Prakash et al. 2019, "RePr: Improved Training of Convolutional Filters".
- RigL: Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Any, Literal, get_args, get_type_hints

from ..arguments import check_kind, refuse_idle

Method = Literal["sofm", "kmeans", "l1", "l2", "random", "activity", "correlation", "subset"]
Comparison = Literal["l1", "l2", "random", "redo", "repr", "dsd", "rigl"]
Ratio = float | Literal["redundant"]
Assign = Literal["fingerprint", "vote", "mode"]
Outgoing = Literal["least_squares", "sum", "mean"]
Refit = Literal["auto", "groups", "products"]
Merge = Literal["mean", "medoid"]
Neighborhood = Literal["gaussian", "exponential", "bubble", "epanechnikov", "cut_gaussian"]
Decay = Literal["geometric", "linear", "asymptotic"]
MapInit = Literal["pca", "sample", "random"]
Placement = Literal["map", "in_place"]
BatchNorm = Literal["recalibrate", "merge"]
Init = Literal["match", "kaiming", "orthogonal", "null_space", "gradient", "keep"]
NewOutgoing = Literal["zero", "random"]
OptimizerState = Literal["reset", "merge", "keep"]
Scope = Literal["group", "layer"]

# Sokar et al. 2023 use 0.025 for convolutional networks.
DORMANT_TAU = 0.025

# Measured by tutorials/redundancy_figures.py: no two channels of networks trained on digits and on
# CIFAR-100 lie nearer than 0.28 (dead ones aside); merging copies with noise on their filters at
# this tolerance changed the outputs by up to 0.6 %, and no accuracy.
TOLERANCE = 0.1

# Options that only some methods read, and these methods.
MAPS: tuple[Method, ...] = ("sofm", "kmeans")
READ_BY: dict[str, tuple[Method, ...]] = {
    **dict.fromkeys(("neighborhood", "sigma", "decay", "map_init", "epochs"), MAPS[:1]),
    **dict.fromkeys(("assign", "merge", "placement", "tolerance"), MAPS),
    "dormant": (*MAPS, "activity"),
}

COMPARISONS: dict[str, dict[str, Any]] = {
    "l1": {"method": "l1"},
    "l2": {"method": "l2"},
    "random": {"method": "random"},
    "redo": {"method": "activity", "init": "kaiming"},
    "repr": {"method": "correlation", "init": "null_space"},
    "dsd": {"method": "l2", "init": "keep"},
    "rigl": {"method": "l2", "init": "gradient"},
}


@dataclass(frozen=True)
class Recipe:
    """How to reorganize and rejuvenate a group of channels.

    Attributes
    ----------
    method : {"sofm", "kmeans", "l1", "l2", "random", "activity", "correlation", "subset"}
        What decides: the paper's map (section 2.3), or k-means in its place; or a score, which
        merges nothing: the BatchNorm ``|scale|`` (Neural Rejuvenation), the norm of the filter
        (DSD), chance, the mean absolute activation (ReDo), or how little the filter overlaps with
        the others of its layer (RePr).  The channels with the highest score survive.  ``"subset"``
        merges nothing either: it chooses the channels from which the refit tells best what the
        consumers read of all, one after the other.
    ratio : float in (0, 1], "redundant", or mapping of name to one of these
        ``K / o``, the share of the channels that is kept.  The paper uses 0.5 (section 3.1.1).
        Fewer are kept only where fewer respond differently (dormant channels are not kept, and
        copies count as one), and with ``assign="vote"`` and ``"mode"``, where nodes of the map
        may stay empty.  A ``Reorganizer`` without a recipe, ``"redundant"``, which frees what
        gives nothing up: channels that respond as another one does (``tolerance``), and dormant
        ones (``dormant``); method ``"activity"`` only the latter, as ReDo does.  A mapping names
        layers, weights or patterns of them (``{"layer4.*": 0.5, "*": "redundant"}``); its first
        key that fits counts.
    max_new : int, optional
        At most so many channels of a layer are freed at once, whatever the ratio says: those that
        are missed least.
    tolerance : float
        For ``"redundant"``: how far two channels of one node may lie apart, relative to what
        they vary (:mod:`.redundancy`).
    dormant : float
        For ``"redundant"``: a channel is dormant whose mean absolute activation is at most this
        share of the mean of its layer (``tau`` of ReDo).  Where tasks replace each other and
        nothing is to be kept, 0.2 ended far ahead (random labels in ``tutorials/streams``).
    assign : {"fingerprint", "vote", "mode"}
        One sample a channel, all its class slices; one sample a slice, every class one vote
        (eq. 2); the majority node of those votes.  ``"redundant"`` always takes fingerprints.
    outgoing : {"least_squares", "sum", "mean"}
        Consumers are refitted on calibration activations; add up; or average (eq. 4 with the
        weights ``1/n`` of section 2.3).
    refit : {"auto", "groups", "products"}
        What ``"least_squares"`` fits: the consumers of every group as if the other groups stayed,
        at no further run of the network; or after that every layer that reads what was changed,
        one after the other, to what those before it make by then, which keeps far more where
        several groups change and takes two more runs.  ``"auto"`` is the latter, but in training
        (where it ended behind on data that keep changing), with averaged copies (which follow
        plans alone) or protected channels, and with other ``outgoing`` or ``new_outgoing``.
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
    init : {"match", "kaiming", "orthogonal", "null_space", "gradient", "keep"}
        Incoming weights of new channels: normal with the spread of the layer (by the median of
        its weights' sizes); normal with ``sqrt(2 / fan_in)`` (He et al. 2015); orthogonal rows
        (Saxe et al. 2014); orthogonal to every filter that the layer had (RePr); along the largest
        gradient of the layer (RigL); or what the place holds (DSD).
    new_outgoing : {"zero", "random"}
        Outgoing weights of new channels; zero does not change the function.
    optimizer : {"reset", "merge", "keep"}
        State of the optimizer for the weights that change: begun anew, its count of steps as well,
        so that Adam corrects the bias of its moments; changed along with the weights; or left.
        Where tasks replace each other, beginning anew ends 7 to 9 points ahead; where all data
        seen stay, merging along does (measured in ``tutorials/streams``).
    scope : {"group", "layer"}
        All producers of a residual stage, or the last convolution alone.
    every : int
        Epochs between two reorganizations in training (``r`` of Algorithm 1).
    stop : float in [0, 1]
        Share of the training after which none takes place any more.
    seed : int
    """

    method: Method = "sofm"
    ratio: Ratio | Mapping[str, Ratio] = 0.5
    max_new: int | None = None
    tolerance: float = TOLERANCE
    dormant: float = DORMANT_TAU
    assign: Assign = "fingerprint"
    outgoing: Outgoing = "least_squares"
    refit: Refit = "auto"
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
    optimizer: OptimizerState = "reset"
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
        self._check_ratio()
        check_kind(
            Real, tolerance=self.tolerance, dormant=self.dormant, sigma=self.sigma, stop=self.stop
        )
        if self.refit == "products" and not self._fits_products:
            raise ValueError(
                "refit 'products' needs outgoing='least_squares' and new_outgoing='zero', got "
                f"{self.outgoing!r} and {self.new_outgoing!r}"
            )
        for name in ("tolerance", "dormant"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"expected {name} to be a share of at least 0, got {getattr(self, name)!r}"
                )
        if self.sigma is not None and not self.sigma > 0:
            raise ValueError(f"expected sigma to be positive or None, got {self.sigma!r}")
        if self.max_new is not None:
            if not (isinstance(self.max_new, int) and self.max_new >= 1):
                raise ValueError(
                    f"expected max_new to be a number of channels or None, got {self.max_new!r}"
                )
            if self.assign != "fingerprint":
                raise ValueError(
                    f"max_new needs assign='fingerprint', one node a channel, got {self.assign!r}"
                )
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

    def _check_ratio(self) -> None:
        by_name = isinstance(self.ratio, Mapping)
        ratios = list(self.ratio.values()) if isinstance(self.ratio, Mapping) else [self.ratio]
        if not ratios:
            raise ValueError("expected ratio to name at least one layer, got an empty mapping")
        for ratio in ratios:
            share = isinstance(ratio, (int, float)) and 0 < ratio <= 1
            if not share and not (isinstance(ratio, str) and ratio == "redundant"):
                raise ValueError(
                    "expected ratio to be a share of the channels in (0, 1] or 'redundant'"
                    f"{', for every name' if by_name else ''}, got {ratio!r}"
                )
        if "redundant" in ratios and self.method not in ("sofm", "kmeans", "activity"):
            raise ValueError(
                "ratio 'redundant' compares activations, which the methods 'sofm', 'kmeans' and "
                f"'activity' do: choose one of these or a share, got method {self.method!r}"
            )

    def without_data(self) -> Recipe:
        """The recipe as far as weights alone allow.

        Raises
        ------
        ValueError
            The method looks at activations, or products are to be refitted.
        """
        if self.needs_means:
            raise ValueError(
                f"method {self.method!r} needs batches of (inputs, labels), got none: give some, "
                "or choose a method that looks at weights alone ('l1', 'l2', 'random', "
                "'correlation')"
            )
        if self.refit == "products":
            raise ValueError(
                "refit 'products' needs batches, got none: give some, or leave it at 'auto'"
            )
        outgoing = "sum" if self.outgoing == "least_squares" else self.outgoing
        return replace(self, outgoing=outgoing, refit="groups", batchnorm="merge")

    @property
    def _fits_products(self) -> bool:
        return (self.outgoing, self.new_outgoing) == ("least_squares", "zero")

    def fitting(self, refit: Refit) -> Recipe:
        """The recipe with this refit where it leaves it open.

        >>> Recipe.preserving().fitting("products").refit, Recipe.paper().fitting("products").refit
        ('products', 'groups')
        """
        if self.refit != "auto":
            return self
        return replace(self, refit=refit if self._fits_products else "groups")

    @property
    def needs_means(self) -> bool:
        """Whether a plan needs class means."""
        return self.method in ("sofm", "kmeans", "activity", "subset")

    @property
    def tells_classes_apart(self) -> bool:
        """Whether a plan looks at the means of different classes."""
        return self.method in ("sofm", "kmeans")

    @property
    def needs_gradients(self) -> bool:
        """Whether a plan needs gradients of the loss."""
        return self.init == "gradient"

    @classmethod
    def preserving(cls, **changes: Any) -> Recipe:
        """The recipe that keeps the network's function as well as it can.

        >>> Recipe.preserving(ratio=0.25).outgoing
        'least_squares'
        """
        return cls(**_changed({}, changes))

    @classmethod
    def shrinking(cls, **changes: Any) -> Recipe:
        """The recipe that keeps the function best where what becomes free is removed.

        >>> Recipe.shrinking(ratio=0.9).method
        'subset'
        """
        best: dict[str, Any] = {"method": "subset", "merge": "medoid", "ratio": 0.75}
        idle = {name: changes.get(name) for name in ("init", "new_outgoing")}
        refuse_idle("where free places are removed", **idle)
        return cls(**_changed(best, changes))

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
            "stop": 1.0,
        }
        return cls(**_changed(printed, changes))

    @classmethod
    def comparison(cls, method: Comparison, **changes: Any) -> Recipe:
        """A method to compare with: survivors keep their weights, no refit of the consumers.

        All of them free the share ``1 - ratio`` of the channels, at equal cost, and start the
        outgoing weights of new channels at zero.  None of the originals is made for channels that
        are freed and used again at once, so each differs:

        =============  =======================================================================
        ``"l1"``       The smallest BatchNorm ``|scale|``, as Neural Rejuvenation finds what is
                       not used.
        ``"l2"``       The smallest filters, drawn again: what the paper compares with as DSD.
        ``"random"``   Chance, the control.
        ``"redo"``     The least active channels, drawn again.  ReDo takes those below a
                       threshold: that is ``ratio="redundant"``.
        ``"repr"``     The filters that overlap most with the others of their layer, drawn
                       orthogonal to all of them.  RePr ranks the whole network at once and
                       trains without the dropped ones for a while; here a share of each layer
                       is dropped and comes back at once.
        ``"dsd"``      The smallest filters contribute nothing from here on and are trained
                       again from there.  DSD works on single weights and trains without them
                       for a while; here the outgoing weights of whole channels are set to zero,
                       and the incoming ones stay, since with both at zero no gradient flows.
        ``"rigl"``     The smallest filters are dropped, and grow along the directions of the
                       input in which the gradient of the layer is largest.  RigL chooses single
                       connections of a sparse layer.  A dense layer has no channels to choose
                       from but those just dropped; what is left to choose is the direction.
        =============  =======================================================================

        >>> Recipe.comparison("dsd").init
        'keep'
        """
        if method not in COMPARISONS:
            raise ValueError(
                f"expected a method to compare with ({', '.join(map(repr, COMPARISONS))}), "
                f"got {method!r}"
            )
        return cls(**_changed({"outgoing": "sum", **COMPARISONS[method]}, changes))

    def to_dict(self) -> dict[str, Any]:
        """Options by name, ready for JSON."""
        return asdict(self)


def given(recipe: Recipe | None, default: Callable[[], Recipe]) -> Recipe:
    """A recipe of a user, or the default; raises TypeError for what is none."""
    if recipe is not None and not isinstance(recipe, Recipe):
        raise TypeError(
            "expected a recipe such as Recipe.preserving(method='kmeans', ratio=0.5), got "
            f"{recipe!r}"
        )
    return recipe or default()


def shrinking(
    recipe: Recipe | None = None, ratio: Ratio | Mapping[str, Ratio] | None = None
) -> Recipe:
    """A recipe whose free places are silent, so that they can be removed.

    Raises
    ------
    ValueError
        The recipe changes single layers of a residual stage.
    """
    recipe = given(recipe, Recipe.shrinking)
    if recipe.scope != "group":
        raise ValueError(
            "expected scope 'group' to remove channels: all layers of a residual stage lose them, "
            f"got {recipe.scope!r}"
        )
    ratio = recipe.ratio if ratio is None else ratio
    return replace(recipe, ratio=ratio, new_outgoing="zero", init="keep")


def _changed(preset: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The options of a preset with those that a user names, each of which is to do something."""
    usual = {option.name: option.default for option in fields(Recipe)} | preset
    options = {**preset, **changes}
    method = options.get("method", usual["method"])
    for name, value in changes.items():
        if name not in usual:
            raise ValueError(f"expected an option of the recipe ({', '.join(usual)}), got {name!r}")
        if value != usual[name] and method not in READ_BY.get(name, (method,)):
            raise ValueError(f"{name} does nothing with method {method!r}: leave it out")
    return options
