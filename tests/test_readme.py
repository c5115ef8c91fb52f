"""The README's Python blocks run as printed, one after the other, in an empty folder.

Its shell blocks are checked against the command line: every command and option exists.
"""

import re
import shlex
from pathlib import Path

import pytest
import rejuvenet

README = (Path(rejuvenet.__file__).parent / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language):
    return [code for found, code in BLOCK.findall(README) if found == language]


def commands():
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "rejuvenet":
                yield words[1:]


def test_opens_with_the_two_commands():
    assert [line for line in blocks("bash")[0].splitlines() if line.startswith("make")] == [
        "make demo" + " " * 6 + "# the whole method on real images, about a minute",
        "make test" + " " * 6 + "# the whole test suite, doctests included",
    ]


def test_python_blocks_run_as_printed(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    shown = blocks("python")
    assert len(shown) >= 3
    names: dict = {}
    for code in shown:
        exec(compile(code, "README.md", "exec"), names)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_commands_exist_with_their_options(words):
    from rejuvenet.adapters.command_line import app
    from typer.main import get_command

    command = get_command(app).commands[words[0]]
    options = {name for option in command.params for name in option.opts}
    used = {word.split("=")[0] for word in words[1:] if word.startswith("-")}
    assert used <= options


def test_there_are_commands_of_every_kind():
    assert {words[0] for words in commands()} == {"inspect", "reorganize", "finetune", "compare"}
