"""The picture of a network: every weight drawn, every group in one colour, nothing on top."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from rejuvenet.adapters.report.inspection import inspection_page
from rejuvenet.adapters.report.network.colors import group_colors, oklab
from rejuvenet.adapters.report.network.lanes import dominators, lanes_of, rows_of
from rejuvenet.adapters.report.network.layers import Operation, Unit, network_of
from rejuvenet.adapters.report.network.layout import lay_out
from rejuvenet.adapters.report.network.picture import Picture
from rejuvenet.graph import Capacity, find_groups
from rejuvenet.graph.find.nodes import Concat, Elementwise, Graph, PerChannel

sys.path.insert(0, str(Path(__file__).parents[1] / "graph"))

from networks import networks

TIMES = "\N{MULTIPLICATION SIGN}"
SVG = "{http://www.w3.org/2000/svg}"
NETWORKS = ("resnet50", "densenet121", "googlenet")


def traced(name):
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision").models
    from rejuvenet.adapters.torch import trace

    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        model = models.get_model(name, weights=None, **options).eval()
    return trace(model.to_empty(device="cpu"), torch.zeros(1, 3, 64, 64))


@pytest.fixture(scope="module", params=NETWORKS)
def drawn(request):
    """A network of torchvision as a picture, as SVG, and what it was made of."""
    model = traced(request.param)
    return Picture(request.param, model.graph, model.groups)


def chain(*names, shapes=((1, 3, 8, 8), (1, 4, 8, 8), (1, 5, 8, 8))):
    """A graph of convolutions one after the other, whose weights have these names."""
    graph = Graph(inputs=["x"], outputs=[f"y{len(names)}"])
    graph.add_tensor("x", shapes[0])
    for i, name in enumerate(names):
        x = f"y{i}" if i else "x"
        made = shapes[(i + 1) % len(shapes)]
        graph.add_tensor(f"y{i + 1}", made)
        graph.add_tensor(f"w{i}", (made[1], graph.shapes[x][1], 3, 3))
        graph.weights[f"w{i}"] = name
        graph.add_convolution(x, f"w{i}", f"y{i + 1}")
    return graph


def picture_of(graph, title="a network", **options):
    return Picture(title, graph, find_groups(graph), **options)


def painted(root):
    """For each number of a group, what its areas and lines are filled with."""
    found = {}
    for element in root.iter():
        classes = element.get("class", "").split()
        paint = element.get("fill")
        paint = element.get("stroke") if paint in (None, "none") else paint
        if "g" in classes and paint:
            (group,) = [int(c[1:]) for c in classes if re.fullmatch(r"g\d+", c)]
            found.setdefault(group, set()).add(paint)
    return found


# --- networks of torchvision ----------------------------------------------------------------


def test_every_group_has_one_colour_and_stages_few_hues(drawn):
    root = ElementTree.fromstring(drawn.svg())
    paints = painted(root)
    assert sorted(paints) == list(range(1, len(drawn.groups) + 1))
    assert all(len(paint) == 1 for paint in paints.values())
    hatch = {p.get("id"): p[0].get("fill") for p in root.iter(f"{SVG}pattern")}
    colors = {}
    for number, (paint,) in paints.items():
        frozen = drawn.groups[number - 1].frozen
        assert (paint == f"url(#f{number})") == bool(frozen)
        colors[number] = hatch[f"f{number}"] if frozen else paint
    assert list(dict(sorted(colors.items())).values()) == drawn.colors
    assert 2 < len(drawn.stages) <= 8
    assert len(set(drawn.colors)) <= 4 * len(drawn.stages)
    assert {f"{n}{TIMES}{n}" for n in (32, 4)} <= {
        name.partition(",")[0] for _, name in drawn.stages
    }


def test_every_weight_is_drawn_in_the_colours_of_its_groups(drawn):
    body = f"<all>{drawn.columns(linked=True)}</all>"
    units = {}
    for unit in ElementTree.fromstring(body).iter("g"):
        title = unit.find("title")
        if title is not None and unit.get("class") is None:
            inside = " ".join(e.get("class", "") for e in unit.iter()).split()
            for weight in re.findall(rf"^  (\S+) [\d{TIMES}]+$", title.text, re.M):
                units.setdefault(weight, set()).update(inside)
    unused = set(drawn.network.unused)  # the auxiliary heads of googlenet
    assert set(units) == set(drawn.graph.weights.values()) - unused
    for i, group in enumerate(drawn.groups):
        for member in group.members:
            if member.role in ("weight", "scale"):
                assert f"g{i + 1}" in units[member.weight], (group.name, member.weight)


def test_frozen_groups_say_why(drawn):
    svg, page = drawn.svg(), inspection_page(drawn)
    reasons = [group.frozen for group in drawn.groups if group.frozen]
    assert reasons
    words = " ".join("".join(e.itertext()) for e in ElementTree.fromstring(svg).iter(f"{SVG}text"))
    for reason in reasons:
        assert reason in words
        assert f"frozen: {reason}" in page


def test_boxes_and_lines_do_not_meet(drawn):
    assert_nothing_overlaps(drawn.units, drawn.sizes, drawn.layout)


def test_shape_suits_a_screen(drawn):
    width, height = drawn.layout.width, drawn.layout.height
    assert 0.6 < width / height < 3
    assert height < 2500


def test_page_links_table_and_picture(drawn):
    page = inspection_page(drawn)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert not {"script", "link", "img"} & set(checker.elements)
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    numbers = range(1, len(drawn.groups) + 1)
    assert Counter(checker.ids) == Counter(set(checker.ids))
    assert {f"{kind}-{i}" for kind in ("group", "at") for i in numbers} <= set(checker.ids)
    assert {href[1:] for href in checker.hrefs} <= set(checker.ids)


def test_the_same_every_time(drawn):
    again = Picture(drawn.title, drawn.graph, drawn.groups)
    assert again.svg() == drawn.svg()
    assert inspection_page(again) == inspection_page(drawn)


def test_residual_trunk_is_straight_and_blocks_stand_beside_it():
    model = traced("resnet50")
    picture = Picture("resnet50", model.graph, model.groups)
    sums = [i for i, unit in enumerate(picture.units) if unit.kind == "sum"]
    assert len(sums) == 16
    by_column = {}
    for i in sums:
        place = picture.layout.places[i]
        by_column.setdefault(place.column, set()).add(place.x)
    assert all(len(x) == 1 for x in by_column.values())
    names = {part.frame.name for part in picture.layout.frames}
    assert {"layer1", "layer4", "layer1.0", "layer3.5"} <= names


def test_dense_blocks_have_one_line_of_concatenations():
    model = traced("densenet121")
    units = network_of(model.graph, model.groups).units
    concats = [unit for unit in units if unit.kind == "concat"]
    assert len(concats) == 58
    assert all(len(unit.sources) == 2 for unit in concats)
    last = next(unit for unit in units if unit.module == "features.transition3.conv")
    assert len(last.operations[0].reads) == 25  # the transition before it and 24 layers
    assert sum(n for _, n in last.operations[0].reads) == 1024


# --- any network ----------------------------------------------------------------------------


def assert_nothing_overlaps(units, sizes, layout):
    """No box on a box, and no straight part of a line on a box that it does not belong to."""
    boxes = []
    for place, (width, height) in zip(layout.places, sizes, strict=True):
        boxes.append((place.x - width / 2, place.y, place.x + width / 2, place.y + height))
    for a, b in itertools.combinations(boxes, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, (a, b)
    for line in layout.lines:
        goal = layout.places[line.target]
        assert line.pieces[-1][2:] == (goal.x, goal.y)
        for x1, y1, x2, y2 in line.pieces:
            assert y2 >= y1
            for i, (left, top, right, bottom) in enumerate(boxes):
                if x1 == x2 and i not in (line.source, line.target):
                    passes = left < x1 < right and top < y2 and y1 < bottom
                    assert not passes, (line, i)
    for left, top, right, bottom in boxes:
        assert left >= 0
        assert top >= 0
        assert right <= layout.width
        assert bottom <= layout.height


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_are_drawn_without_overlaps(seed):
    rng = random.Random(seed)
    n = rng.randint(1, 70)
    units = []
    for i in range(n):
        most = min(i, rng.choice((1, 1, 2, 4)))
        near = range(max(0, i - rng.choice((2, 6, 40))), i)
        sources = sorted(rng.sample(near, min(most, len(near))))
        module = f"stage{i // 9}.block{i // 3}.{i}"
        layer = Operation("layer", (f"{module}.w",), module, "", (), ())
        if len(sources) <= 1:
            units.append(Unit("layers", f"t{i}", sources, [layer]))
        else:
            units.append(Unit("sum", f"t{i}", sources))
    sizes = [(rng.uniform(10, 180), rng.uniform(8, 60)) for _ in units]
    runs = [rng.uniform(2, 56) for _ in units]
    layout = lay_out(units, sizes, runs)
    assert_nothing_overlaps(units, sizes, layout)
    for unit, dominator in zip(units, dominators(units), strict=True):
        assert dominator == naive_dominator(units, unit)


def test_lanes_are_used_again():
    """Cells that read the two before them (as in NASNet) have no split and join of their own."""
    units = [Unit("input", "x", []), Unit("join", "stem", [0])]
    for i in range(2, 60, 3):
        layers = [Unit("join", f"{i}.{k}", [max(0, i - 1 - 3 * k)]) for k in range(2)]
        units += [*layers, Unit("sum", f"{i}", [i, i + 1])]
    row = rows_of(units)
    assert max(lanes_of(units, row)) <= 6


def naive_dominator(units, unit):
    """The last unit without which no path from an input leads to ``unit``."""

    def reached(without):
        found = []
        for i, other in enumerate(units):
            if i != without and (not other.sources or any(found[j] for j in other.sources)):
                found.append(True)
            else:
                found.append(False)
        return any(found[j] for j in unit.sources)

    before = next(i for i, other in enumerate(units) if other is unit)
    return next((i for i in reversed(range(before)) if not reached(i)), -1) if unit.sources else -1


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(length=12))
def test_random_networks_are_drawn_whole(network):
    picture = picture_of(network.graph)
    root = ElementTree.fromstring(picture.svg())
    assert sorted(painted(root)) == list(range(1, len(picture.groups) + 1))
    assert all(len(paint) == 1 for paint in painted(root).values())
    drawn = {w for unit in picture.units for o in unit.operations for w in o.weights}
    assert drawn | set(picture.network.unused) == set(network.graph.weights.values())
    assert_nothing_overlaps(picture.units, picture.sizes, picture.layout)


def test_strange_names_are_escaped():
    names = ["<b>&\"'.weight", "a\x00\ud800\x1b]]>.w", "\u2013. ünï\u202e"]
    graph = chain(*names)
    picture = picture_of(graph, title="</svg><script>alert(1)</script>\x07")
    root = ElementTree.fromstring(picture.svg())
    assert root.find(f"{SVG}title").text.startswith("</svg><script>")
    text = picture.svg()
    assert "&lt;b&gt;&amp;" in text
    assert "\x00" not in text
    text.encode()
    page = inspection_page(picture)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert "script" not in checker.elements
    page.encode()


def test_parameters_stand_with_their_layer():
    graph = chain("a.conv.weight", "b.conv.weight")
    first, second = graph.nodes
    for name, shape in {
        "n": (4,),
        "m": (4,),
        "h": (1, 4, 8, 8),
        "k": (4,),
        "j": (1, 4, 8, 8),
    }.items():
        graph.add_tensor(name, shape)
    graph.weights |= {"n": "a.norm.weight", "m": "a.norm.bias", "k": "a.conv.bias"}
    graph.nodes = [
        first,
        PerChannel(("y1", "k"), "j", 1, ("bias",)),
        PerChannel(("j", "n", "m"), "h", 1, ("scale", "shift")),
        second.__class__(("h", "w1"), "y2", second.a_axes, second.b_axes, second.out_axes),
    ]
    units = network_of(graph, find_groups(graph)).units
    assert [unit.kind for unit in units] == ["input", "layers", "layers", "output"]
    assert [o.weights for o in units[1].operations] == [
        ("a.conv.weight", "a.conv.bias"),
        ("a.norm.weight", "a.norm.bias"),
    ]
    assert units[1].operations[0].text == f"3→4 3{TIMES}3"


def test_concatenations_of_the_same_start_are_one_after_the_other():
    graph = chain("a.weight", shapes=((1, 4, 8, 8), (1, 4, 8, 8)))
    graph.add_tensor("p", (1, 8, 8, 8))
    graph.add_tensor("q", (1, 12, 8, 8))
    graph.nodes += [Concat(("x", "y1"), "p", 1), Concat(("x", "y1", "y1"), "q", 1)]
    graph.nodes.append(Elementwise(("p",), graph.add_tensor("r", (1, 8, 8, 8))))
    units = network_of(graph, find_groups(graph)).units
    assert [unit.sources for unit in units if unit.kind == "concat"] == [[0, 1], [2, 1]]


def test_weights_that_no_input_meets_are_named():
    graph = chain("a.weight")
    graph.add_tensor("alone", (7,))
    graph.weights["alone"] = "forgotten.table"
    picture = picture_of(graph)
    assert picture.network.unused == ["forgotten.table"]
    assert "forgotten.table" in picture.svg()
    assert "forgotten.table" in inspection_page(picture)


def test_a_network_without_weights_is_drawn():
    graph = Graph(inputs=["x"], outputs=["x"], shapes={"x": (1, 3, 8, 8)})
    picture = picture_of(graph)
    ElementTree.fromstring(picture.svg())
    assert "0 channel groups of 0 weights" in inspection_page(picture) + picture.svg()


def test_capacity_is_shown_where_it_is_known():
    graph = chain("a.weight", "b.weight")
    figures = {"a.weight": Capacity(4, 4, 3, 2.5, 0.25, features=9)}
    picture = picture_of(graph, figures=figures)
    assert "effective rank 2.5 of 4, 25% dormant" in picture.svg()
    page = inspection_page(picture)
    assert "capacity used" in page
    assert ">25 %<" in page
    assert "capacity used" not in inspection_page(picture_of(graph))


def test_groups_that_did_not_change_are_grey():
    graph = chain("a.weight", "b.weight")
    picture = Picture("two", graph, find_groups(graph), changed=["a.weight"])
    assert picture.colors[1] == "#c3cad4" != picture.colors[0]
    assert len(picture.stages) == 1


def test_hash_seed_does_not_matter():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_network_picture import staged\n"
        "sys.stdout.write(staged().svg())"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert said.stdout == staged().svg()


def staged():
    """The picture of three stages of two blocks each."""
    return picture_of(chain(*(f"s{i // 4}.b{i // 2}.{i}.weight" for i in range(12))))


def test_neighbours_differ_for_everybody():
    n = 150
    pairs = [(i, i + 1) for i in range(n - 1)] + [(i, i + 2) for i in range(n - 2)]
    colors = group_colors([6 * i // n for i in range(n)], pairs)
    assert len(set(colors)) <= 24
    channels = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colors]) / 255
    seen = oklab(
        np.where(channels > 0.04045, ((channels + 0.055) / 1.055) ** 2.4, channels / 12.92)
    )
    apart = [np.linalg.norm(seen[a] - seen[b]) for a, b in pairs]
    assert min(apart) > 0.11


# --- the command ----------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A file of two convolutions, alone in the working folder."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    weights = {"a.weight": (4, 3, 3, 3), "b.weight": (5, 4, 3, 3)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a.weight"], ["h"]),
            helper.make_node("Conv", ["h", "b.weight"], ["y"]),
        ],
        "two",
        [helper.make_tensor_value_info("x", 1, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("y", 1, (1, 5, 4, 4))],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), "model.onnx")
    return tmp_path


def call(*words):
    from rejuvenet.adapters.command_line.app import app
    from typer.testing import CliRunner

    return CliRunner().invoke(app, [str(word) for word in words])


def test_inspect_writes_page_and_picture(model):
    done = call("inspect", "model.onnx", "--html", "page.html", "--svg", "net.svg")
    assert done.exit_code == 0, done.output
    assert "Wrote page.html" in done.stdout
    ElementTree.parse("net.svg")
    assert 'id="group-2"' in (model / "page.html").read_text()
    rows = json.loads(call("inspect", "model.onnx", "--svg", "net.svg", "--json").stdout)["groups"]
    assert [row["layer"] for row in rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("status", "words", "said"),
    [
        (1, "--html no/page.html", "there is no folder"),
        (1, "--svg .", "it is a folder"),
        (1, "--svg /dev/null", "not a regular file"),
        (2, "--html model.onnx", "it is the model to read"),
        (2, "--html a.html --svg ./a.html", "give each option a file of its own"),
    ],
)
def test_impossible_files_are_refused_before_the_work(model, monkeypatch, status, words, said):
    from rejuvenet.adapters import onnx as adapter

    monkeypatch.setattr(adapter, "load", lambda *_: pytest.fail("the model was read"))
    content = Path("model.onnx").read_bytes()
    done = call("inspect", "model.onnx", *words.split())
    assert done.exit_code == status
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert len(done.stderr.strip().split(". ")) == 1
    assert sorted(os.listdir()) == ["model.onnx"]
    assert Path("model.onnx").read_bytes() == content


class Checker(HTMLParser):
    """Collects elements, names and links; every element must be closed."""

    VOID = ("meta", "input", "wbr", "br")

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.ids, self.hrefs = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.hrefs += [value for name, value in attrs if name == "href"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
