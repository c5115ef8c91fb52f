r"""Names as a reader can trust them: what has no glyph of its own is written out.

Names come from files that others wrote.  An escape code would move the cursor of a terminal or
recolor it, a bidirectional control reorders what stands around it, and most control characters
are not allowed in XML.  Numbers of things are said in one way as well.
"""

from __future__ import annotations


def visible(text: object) -> str:
    r"""``text`` with every character that cannot be seen as its escape sequence.

    >>> print(visible("conv\x1b[2J\u202e1\n"))
    conv\x1b[2J\u202e1\n
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)
    )


def number_of(n: int, noun: str) -> str:
    """A number of things by the name of several.

    >>> number_of(1257, "images"), number_of(1, "images")
    ('1,257 images', '1 image')
    """
    return f"{n:,} {noun.removesuffix('s') if n == 1 else noun}"
