"""A page is one file, says what was gained and what to do next, and shows its pictures' pixels."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rejuvenet.adapters.report.activations import Panel, add_activations, neighbor_similarity
from rejuvenet.adapters.report.before_after import gain
from rejuvenet.adapters.report.curves import curves
from rejuvenet.adapters.report.page import Page
from rejuvenet.adapters.report.shares import Share, add_classes, add_shares

Image = pytest.importorskip("PIL.Image")


class Checker(HTMLParser):
    """Collects addresses, names and open elements; every element must be closed."""

    VOID = ("meta", "img", "br", "wbr", "path", "polyline")

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.ids, self.elements = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def checked(page):
    checker = Checker()
    checker.feed(str(page))
    assert checker.open == []
    return checker


def picture(page, number=0):
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', str(page))[number]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


def shown(*panels, classes=("p", "q")):
    page = Page("t")
    add_activations(page, "conv4.weight", panels, classes)
    return page


def test_page_is_closed_escaped_and_asks_the_network_for_nothing():
    page = Page("<b>", "a & b")
    page.lead("<u> 1 < 2", "better", [("accuracy", "<i>", "remark")], [("do", "rm <x> --y z")])
    page.table("T", ["effective rank", "b"], [["<script>", 1.5], [None, 2]], note="x < y")
    classes = [{"name": "<c>", "images": 9, "accuracy": (0.5, 1.0),
                "intervals": ((0.2, 0.8), (0.7, 1.0))}] * 14  # fmt: skip
    add_shares(page, [("<one>", Share(0.5), "<r>"), ("none", None, "")], "<n>")
    add_classes(page, ("<a>", "<b>"), classes)
    page.add("C", "", curves({"<x>": [0.5, None, 0.7], "y": [0.1, 0.2]}, "<f>", "l"))
    page.made_by([("again", "cmd <x>")], {"<name>": "<value>"})
    Q = np.random.default_rng(0).random((2, 4, 3, 3))
    add_activations(page, "<g>", [Panel("Before", "<", Q), Panel("A", "", Q, np.array([1]))], "pq")
    checker = checked(page)
    assert not {"script", "link", "c", "x", "g"} & set(checker.elements)
    inside = [address for address in checker.addresses if not address.startswith("data:")]
    assert {address[1:] for address in inside} == {"word-accuracy", "word-effective-rank"}
    assert {address[1:] for address in inside} <= set(checker.ids)
    assert "http" not in str(page).replace("http-equiv", "")
    assert "&lt;script&gt;" in str(page)
    assert "The other 2 classes" in str(page)


def test_what_was_gained_and_the_next_command_stand_on_top():
    page = Page("t")
    page.lead("It rose (-1.00 points).", "worse", [], [("Train it:", "rejuvenet finetune a -o b")])
    page.table("later", ["a"], [[1]])
    text = str(page)
    assert text.index("It rose (\N{MINUS SIGN}1.00") < text.index("finetune") < text.index("later")


@pytest.mark.parametrize(
    ("difference", "error", "tone", "said"),
    [
        (0.05, 0.01, "better", "rose from 90.00 % to 95.00 %"),
        (0.05, 0.03, "same", "no difference that so few can tell"),
        (0.0, 0.0, "same", "no difference"),
        (-0.05, 0.01, "worse", "fell from 90.00 % to 85.00 %"),
    ],
)
def test_a_gain_is_only_what_the_images_can_tell(difference, error, tone, said):
    figures = {"accuracy": (0.9, 0.9 + difference),
               "gain": {"difference": difference, "error": error}}  # fmt: skip
    sentence, found = gain(figures, "100 test images")
    assert found == tone
    assert said in sentence
    assert sentence.startswith("On 100 test images")


def test_without_labels_the_outputs_are_compared():
    assert "for 97.00 %" in gain({"accuracy": None, "top1": 0.97}, "9 images")[0]


def test_scale_tells_high_accuracies_apart():
    page = Page("t")
    rows = [(name, Share(value), "") for name, value in (("a", 0.27), ("b", 0.994), ("c", 0.998))]
    add_shares(page, rows, "")
    places = [float(x) for x in re.findall(r'dot" style="left:([\d.]+)%', str(page))]
    assert places[0] == 0 < places[1] < places[2] == 100
    assert places[2] - places[1] > 15  # a linear scale has half a percent


def test_tiles_hold_the_slices():
    Q = np.zeros((2, 3, 6, 6))
    Q[1, 2, 0, 1] = 1.0
    pixels = picture(shown(Panel("Before", "", Q)))
    assert pixels.shape == (2 * 7, 3 * 7, 4)
    assert (pixels[6, :, 3] == 0).all()  # the gap below the first class is transparent
    dark, bright = (68, 1, 84), (253, 231, 37)
    assert tuple(pixels[0, 0, :3]) == dark
    assert tuple(pixels[7, 15, :3]) == bright
    assert (pixels[..., :3] == bright).all(axis=-1).sum() == 1


def test_small_tiles_are_squares_and_large_ones_pooled():
    small = np.arange(8.0).reshape(2, 4, 1, 1)
    assert picture(shown(Panel("Before", "", small))).shape == (2 * 7, 4 * 7, 4)
    large = np.random.default_rng(0).random((2, 4, 112, 50))
    assert picture(shown(Panel("Before", "", large))).shape == (2 * 13, 4 * 13, 4)


def test_channels_are_thinned_by_their_share_and_classes_too():
    Q = np.random.default_rng(0).random((100, 1280, 2, 2))
    new = np.arange(640, 1280)
    page = shown(Panel("Before", "", Q), Panel("After", "", Q, new), classes=list(range(100)))
    assert "64 of the 1280 channels are shown" in str(page)
    assert "20 of the 100 classes are shown" in str(page)
    assert picture(page).shape == (20 * 7, 64 * 7, 4)
    assert "var(--kept) 0% 50%,var(--new) 50% 100%" in str(page)
    assert 'alt="After: class-representative activations of conv4.weight"' in str(page)
    assert "New channels, close up" in str(page)


def test_strip_marks_new_channels():
    panel = Panel("After", "", np.random.default_rng(0).random((2, 4, 2, 2)), np.array([1, 3]))
    strip = re.search(r"linear-gradient\(90deg,([^)]*\)[^;]*?)\)\"", str(shown(panel))).group(1)
    assert strip == (
        "var(--kept) 0% 25%,var(--new) 25% 50%,var(--kept) 50% 75%,var(--new) 75% 100%"
    )


def test_order_raises_the_similarity_of_neighbors():
    rng = np.random.default_rng(0)
    t = np.linspace(0, 3, 32)[:, None]
    channels = np.cos(t - np.linspace(0, 3, 40)).reshape(32, 10, 2, 2).swapaxes(0, 1)
    mixed = channels[:, rng.permutation(32)]
    assert neighbor_similarity(channels) > 0.9 > neighbor_similarity(mixed) + 0.3
    assert neighbor_similarity(np.zeros((3, 4, 1, 1))) == 0.0
