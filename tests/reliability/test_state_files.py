"""Damaged plans, maps and Reorganizer states: ValueError, or what was saved; nothing else.

By hand, with figures::

    python tests/reliability/test_state_files.py
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from rejuvenet.adapters.torch import Reorganizer  # noqa: E402
from rejuvenet.adapters.torch.training.warm_up import WarmUp  # noqa: E402
from rejuvenet.graph.find.channels import Member  # noqa: E402
from rejuvenet.graph.plan.capacity import Capacity  # noqa: E402
from rejuvenet.graph.plan.plan import GroupPlan, Plan  # noqa: E402
from rejuvenet.graph.plan.recipe import Recipe  # noqa: E402
from rejuvenet.sofm import SOFM  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

import damage  # noqa: E402


def trial(read: Callable[[], Any], right: Any) -> str:
    """``"refused"``, ``"the same"``, or what went wrong."""
    try:
        found = read()
    except ValueError as error:
        text = str(error)
        return "refused" if text and "\n" not in text else f"not one sentence: {text[:80]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    return "the same" if found == right else "loads wrongly"


def archive(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def written(folder: Path, content: bytes) -> Path:
    """The content in a new file: to overwrite one may wait for the disk."""
    path = folder / "damaged"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


# --- plans ---------------------------------------------------------------------------------------


def plan() -> Plan:
    """A plan with every part: a merge with filters, and an order."""
    o, new = 4, np.array([3])
    A = np.eye(o)
    A[:2, :2] = 0.5
    A[3] = 0.0
    members = (
        Member("conv.weight", "producer", "weight", (4, 2, 3, 3), (0,), np.arange(4)[:, None]),
        Member("next.weight", "consumer", "weight", (2, 4), (1,), np.arange(4)[:, None]),
    )
    merge = GroupPlan(
        "conv", "reorganize", o, members, (np.arange(o),), A=A, B=A.copy(), new=new, method="sofm",
        shares=A.copy(), nodes=2, occupied=2, merged=2, note="a note",
        capacity=Capacity(4, 2, 2, 1.5, 0.25, 9),
        filters={"conv.weight (0,)": np.ones((1, 1, 2, 3, 3))},
    )  # fmt: skip
    order = GroupPlan("other", "arrange", o, members[:1], (np.arange(o),), np.array([1, 0, 2, 3]))
    return Plan([merge, order], Recipe.preserving(), {"stem": "a reason"})


def contents(found: Plan) -> str:
    """All that a plan holds, to compare."""
    parts = []
    for group in found.groups:
        arrays = {n: getattr(group, n) for n in ("order", "A", "B", "shares", "new")}
        parts += [None if a is None else a.tolist() for a in arrays.values()]
        parts += [s.tolist() for s in group.sets]
        parts += [[m.positions.tolist(), *map(str, (m.weight, m.kind, m.role, m.view, m.axes))]
                  for m in group.members]  # fmt: skip
        parts += [{n: f.tolist() for n, f in group.filters.items()}]
    return json.dumps([found.to_dict(), parts], sort_keys=True)


# What may as well be absent.
OPTIONAL = {
    "('recipe',) as None", "('skipped',) without stem", "('groups', 0, 'capacity') as None",
    "('groups', 0, 'filters') without conv.weight (0,)",
    "('groups', 0, 'arrays') without shares", "('random_state',) as None", "('_calls',) as None",
    "('new_channels',) as None",
}  # fmt: skip


def plans(folder: Path) -> Iterator[tuple[str, str]]:
    path, made = folder / "plan.npz", plan()
    made.save(path)
    right, whole = contents(made), path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)

    def read(content: bytes) -> str:
        return trial(lambda: contents(Plan.load(written(folder, content))), right)

    assert read(whole) == "the same"
    for name, content in damage.of_bytes(whole, 60):
        yield f"plan, {name}", read(content)
    header = json.loads(arrays["header"].tobytes())
    for name, other in damage.of_values(header):
        if name in OPTIONAL:
            continue
        packed = np.frombuffer(json.dumps(other).encode(), np.uint8)
        yield f"plan, {name}", read(archive({**arrays, "header": packed}))
    for key in arrays:
        rest = {n: a for n, a in arrays.items() if n != key}
        yield f"plan without {key}", read(archive(rest))
        for name, other in damage.of_array(arrays[key]) if key != "header" else ():
            yield f"plan, {key} {name}", read(archive({**arrays, key: other}))


# --- maps ----------------------------------------------------------------------------------------


def maps(folder: Path) -> Iterator[tuple[str, str]]:
    path = folder / "map.npz"
    X = np.random.default_rng(0).normal(size=(30, 3))
    for som in (SOFM((2, 3), n_epochs=2, random_state=0).partial_fit(X),
                SOFM(4, n_epochs=2, init=X[:4], random_state=0).fit(X)):  # fmt: skip
        som.save(path)
        whole = path.read_bytes()
        with np.load(path) as file:
            arrays = dict(file)

        def told(found: SOFM) -> str:
            values = {n: v for n, v in sorted(vars(found).items()) if n != "grid_"}
            return repr({n: getattr(v, "tolist", lambda v=v: v)() for n, v in values.items()})

        right = told(SOFM.load(path))

        def read(content: bytes, right=right, told=told) -> str:
            return trial(lambda: told(SOFM.load(written(folder, content))), right)

        assert read(whole) == "the same"
        for name, content in damage.of_bytes(whole, 40):
            yield f"map, {name}", read(content)
        for part in ("parameters", "state", "arrays"):
            for name, other in damage.of_values(json.loads(str(arrays[part]))):
                if name in OPTIONAL:
                    continue
                text = np.array(json.dumps(other))
                yield f"map, {part} {name}", read(archive({**arrays, part: text}))
        for key in arrays:
            rest = {n: a for n, a in arrays.items() if n != key}
            yield f"map without {key}", read(archive(rest))
            for name, other in damage.of_array(arrays[key]) if arrays[key].ndim else ():
                yield f"map, {key} {name}", read(archive({**arrays, key: other}))
        for name, value in {"predict": "{}", "__class__": "x"}.items():
            yield f"map with {name}", read(archive({**arrays, name: np.array(value)}))
            state = json.loads(str(arrays["state"])) | {name: value}
            yield f"map, state with {name}", read(
                archive({**arrays, "state": np.array(json.dumps(state))})
            )


# --- Reorganizer ---------------------------------------------------------------------------------


def reorganizer() -> Reorganizer:
    """One that has had an event, so that layers are frozen and new channels warm up."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 6, 3), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(6 * 16, 2),
    )  # fmt: skip
    loader = [(torch.randn(8, 3, 8, 8), torch.arange(8) % 2)]
    made = Reorganizer(
        model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), loader, layers=["0", "2"],
        every=1, recipe=Recipe.preserving(ratio=0.5), freeze_below=True, warmup=WarmUp(50),
    )  # fmt: skip
    for epoch in range(2):
        made.step(epoch)
    return made


def states(folder: Path) -> Iterator[tuple[str, str]]:
    source, target = reorganizer(), reorganizer()
    right = source.state_dict()
    assert right["frozen"]
    assert right["new_channels"]["rows"]

    def told() -> str:
        trained = {n: t.requires_grad for n, t in target.traced.tensors.items()}
        hooks = len(target.optimizer._optimizer_step_post_hooks)
        return json.dumps([target.state_dict(), trained, hooks], sort_keys=True)

    target.load_state_dict(copy.deepcopy(right))
    before = told()

    def read(state: Any) -> str:
        def load() -> str:
            target.load_state_dict(state)
            return told()

        found = trial(load, before)
        if told() != before:
            found += ", and the state has changed"
            target.load_state_dict(right)
        return found

    assert read(json.loads(json.dumps(right))) == "the same"
    for name, other in damage.of_values({k: v for k, v in right.items() if k != "history"}):
        if name in OPTIONAL:
            continue
        if isinstance(other, dict):
            other = {"history": right["history"], **other}
        yield f"state, {name}", read(other)
    for name, other in damage.of_values({"history": [{"epoch": 0}]}):
        if "epoch" in name or not isinstance(other.get("history"), list):
            yield f"state, {name}", read({**right, **other} if other else {
                k: v for k, v in right.items() if k != "history"})  # fmt: skip
    for other in (None, [], "text", 3, {}):
        yield f"state {other!r}", read(other)


KINDS = {"plan": plans, "map": maps, "state": states}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_state_files(kind, tmp_path):
    results = list(KINDS[kind](tmp_path))
    assert [r for r in results if r[1] not in ("refused", "the same")] == []
    assert sum(found == "refused" for _, found in results) > 100


def main() -> None:
    """All files; writes ``results/state_files.json``."""
    with tempfile.TemporaryDirectory() as folder:
        results = {kind: list(make(Path(folder))) for kind, make in KINDS.items()}
    wrong = [r for found in results.values() for r in found if r[1] not in ("refused", "the same")]
    counts = {kind: Counter(found for _, found in part) for kind, part in results.items()}
    summary = {"files": sum(map(len, results.values())), **counts, "wrong": wrong}
    print(json.dumps(summary, indent=1))
    out = Path(__file__).parent / "results" / "state_files.json"
    out.write_text(json.dumps({**summary, "trials": results}, indent=0) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    main()
