"""The page is one file, says what it is given, and shows the pictures' pixels."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rejuvenet.adapters.report.html import Page, Panel, neighbor_similarity


class Checker(HTMLParser):
    """Collects addresses and open elements; every element must be closed."""

    VOID = ("meta", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.elements = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(page):
    checker = Checker()
    checker.feed(str(page))
    assert checker.open == []
    return checker


def picture(page, number=0):
    Image = pytest.importorskip("PIL.Image")
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', str(page))[number]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


def test_page_is_closed_escaped_and_asks_the_network_for_nothing():
    page = Page("<b>", "a & b")
    page.figures([("name", "<i>", "remark")])
    page.table("T", ["a", "b"], [["<script>", 1.5], [None, 2]], note="x < y")
    page.bars("B", [("one", 0.5, ""), ("none", None, "")])
    page.text("P", "1 < 2")
    page.activations(
        "A", [Panel("Before", "", np.random.default_rng(0).random((2, 4, 3, 3)))], ["p", "q"]
    )
    checker = checked(page)
    assert "script" not in checker.elements
    assert "link" not in checker.elements
    assert checker.addresses
    assert all(address.startswith("data:") for address in checker.addresses)
    assert "http" not in str(page).replace("http-equiv", "")
    assert "&lt;script&gt;" in str(page)


def test_tiles_hold_the_slices():
    Q = np.zeros((2, 3, 2, 2))
    Q[1, 2, 0, 1] = 1.0
    page = Page("t")
    page.activations("A", [Panel("Before", "", Q)], ["p", "q"])
    pixels = picture(page)
    assert pixels.shape == (2 * 3, 3 * 3, 4)
    assert (pixels[2, :, 3] == 0).all()  # the gap below the first class is transparent
    dark, bright = (68, 1, 84), (253, 231, 37)
    assert tuple(pixels[0, 0, :3]) == dark
    assert tuple(pixels[3, 7, :3]) == bright
    assert (pixels[..., :3] == bright).all(axis=-1).sum() == 1


def test_many_channels_are_one_column_each():
    Q = np.random.default_rng(0).random((2, 200, 3, 2))
    page = Page("t")
    page.activations("A", [Panel("Before", "", Q)], ["p", "q"])
    assert picture(page).shape == (2 * 3 * 2, 200, 4)


def test_many_classes_are_thinned_and_said():
    page = Page("t")
    page.activations(
        "A",
        [Panel("Before", "", np.random.default_rng(0).random((100, 4, 2, 2)))],
        list(range(100)),
    )
    assert "20 of the 100 classes are shown" in str(page)
    assert picture(page).shape == (20 * 3, 4 * 3, 4)


def test_strip_marks_new_channels():
    page = Page("t")
    panel = Panel("After", "", np.random.default_rng(0).random((2, 4, 2, 2)), np.array([1, 3]))
    page.activations("A", [panel], ["p", "q"])
    strip = re.search(r"linear-gradient\(90deg,([^)]*\)[^;]*?)\)\"", str(page)).group(1)
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
