"""The page of ``rejuvenate``: what it gained over the original and over plain fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..images.accuracy import Gain, wilson
from ..visible import number_of
from .before_after import add_outputs
from .page import Page, Step, Tone, percent
from .reorganization import CHANGED, Pictures, add_groups, finished
from .shares import Share, add_classes, add_shares
from .training import add_epochs

if TYPE_CHECKING:
    from ..command_line.invocation import Invocation
    from .network.picture import Picture

STATES = {
    "original": "as it was",
    "reorganized": "no training yet",
    "plain fine-tuning": "for as many epochs",
    "rejuvenated": "reorganized, then trained",
}
UNCHANGED = {  # where no epoch was better than none
    "plain fine-tuning": "no epoch was kept",
    "rejuvenated": "reorganized; no epoch was kept",
}


def rejuvenation_page(
    call: Invocation,
    result: Mapping[str, Any],
    comparison: Mapping[str, Any],
    recipe: Mapping[str, Any],
    pictures: Pictures,
    network: Picture,
) -> str:
    """The page of a rejuvenation.

    Parameters
    ----------
    call : Invocation
        The command that made it.
    result : dict
        Of :class:`rejuvenet.adapters.finetune.rejuvenating.Rejuvenation`.
    comparison : dict
        Of the original and the rejuvenated file, on the images set apart.
    recipe : dict
        Options of the method.
    pictures, network
        As for :func:`.reorganization.finished`.
    """
    model, output = str(call.settings["model"]), str(call.settings["output"])
    page = Page(f"Rejuvenated: {output}", f"from {model}")
    shares, n = result["accuracy"], result["evaluated"]
    states = {**STATES, **{name: UNCHANGED[name] for name in result["unchanged"]}}
    images = f"{number_of(n, call.noun)} set apart"
    cards = [("accuracy", percent(shares["rejuvenated"]), f"rejuvenated, on {images}")]
    cards += [
        (name, percent(shares[name]), states[name])
        for name in ("original", "plain fine-tuning")
        if name in shares
    ]
    new = sum(line["new"] for line in result["report"]["groups"])
    cards.append(("new", str(new), "channels started anew"))
    page.lead(result["verdict"], _tone(result), cards, _steps(call, result))
    rows = [
        (name, Share(shares[name], wilson(round(shares[name] * n), n)), said)
        for name, said in states.items()
        if name in shares
    ]
    add_shares(page, rows, f"On {images}, which nothing was trained on or chosen by.")
    add_classes(page, ("original", "rejuvenated"), comparison["classes"])
    add_outputs(page, comparison, images)
    add_epochs(page, {name: found["trained"] for name, found in result["trained"].items()})
    if result["note"]:
        page.add("How the layers were chosen", result["note"], "")
    add_groups(page, result["report"])
    made, groups = "This page and the files:", result["report"]["groups"]
    return finished(page, call, made, pictures, network, CHANGED, groups, recipe)


def _clear(gain: Mapping[str, Any] | None) -> bool:
    return gain is not None and Gain(**gain).clear


def _tone(result: Mapping[str, Any]) -> Tone:
    """Better only where neither the original nor plain training does as well."""
    gain, plain = result["gain"], result["against_plain"]
    if _clear(plain) and plain["difference"] < 0:
        return "worse"
    if not _clear(gain):
        return "same"
    if gain["difference"] < 0:
        return "worse"
    return "better" if plain is None or _clear(plain) else "same"


def _steps(call: Invocation, result: Mapping[str, Any]) -> list[Step]:
    """Which file to use, and what else could be tried."""
    model, output = str(call.settings["model"]), str(call.settings["output"])
    stem = output.removesuffix(".onnx")
    gain, plain = result["gain"], result["against_plain"]
    best = output
    if _clear(plain) and plain["difference"] < 0:
        best = f"{stem}.plain.onnx"
    elif _clear(gain) and gain["difference"] < 0:
        best = model
    smaller = call.command(
        "shrink", best, "-o", f"{stem}.smaller.onnx", "--html", f"{stem}.smaller.html"
    )
    if not _clear(gain) or best == model:
        said = f"Nothing was gained in accuracy: keep {model}. What it does not need can go:"
        return [(said, smaller.replace(best, model, 1))]
    if not _clear(plain) and plain is not None:
        said = f"Use {output} or {stem}.plain.onnx; no difference was told."
        return [(said, ""), ("Or make it smaller and faster:", smaller)]
    return [(f"Use {best}.", ""), ("Or make it smaller and faster:", smaller)]
