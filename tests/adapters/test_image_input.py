"""Models that take images in any type and layout, and pictures of any kind, by the command line."""

import json

import numpy as np
import pytest
from rejuvenet.adapters.command_line.app import app
from rejuvenet.adapters.images.model_input import ImageInput
from typer.testing import CliRunner

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
Image = pytest.importorskip("PIL.Image")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def result(*words):
    done = call(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def brightness(path, kind=TensorProto.UINT8, shape=("n", 6, 6, 3), perm=(0, 3, 1, 2), at=100.0):
    """Class 1 where the mean level is above ``at``, else class 0; a convolution in between."""
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT)]
    if perm:
        nodes.append(helper.make_node("Transpose", ["f"], ["t"], perm=perm))
    nodes += [
        helper.make_node("Conv", ["t" if perm else "f", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["v"]),
        helper.make_node("Gemm", ["v", "m", "b"], ["scores"]),
        helper.make_node("ReduceMax", ["v"], ["brightest"], axes=[1], keepdims=0),
    ]
    channels = shape[3] if perm else shape[1]
    w = np.full((4, channels, 1, 1), 1 / channels, np.float32)
    values = {
        "w": w * np.array([1, 2, 1, 2], np.float32).reshape(4, 1, 1, 1),
        "m": np.array([[-1, 1], [-1, 1], [-1, 1], [-1, 1]], np.float32) / 6,
        "b": np.array([at, -at], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("x", kind, shape)],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("brightest", TensorProto.FLOAT, ["n"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def shades(levels=(60, 180), size=(6, 6)):
    """A folder of even pictures: class ``k`` has level ``levels[k]``."""
    from pathlib import Path

    for label, level in enumerate(levels):
        folder = Path("pictures") / str(label)
        folder.mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", size, (level, level, level)).save(folder / f"{k}.png")
    return Path("pictures")


@pytest.mark.parametrize(
    ("kind", "shape", "perm", "at"),
    [
        (TensorProto.UINT8, ("n", 6, 6, 3), (0, 3, 1, 2), 100),
        (TensorProto.UINT8, ("n", 3, 6, 6), None, 100),
        (TensorProto.INT32, ("n", 3, "h", "w"), None, 100),
        (TensorProto.FLOAT, ("n", 6, 6, 3), (0, 3, 1, 2), 0.4),
        (TensorProto.FLOAT, ("n", "h", "w", 1), (0, 3, 1, 2), 0.4),
        (TensorProto.FLOAT16, ("n", 3, 6, 6), None, 0.4),
    ],
)
def test_pictures_enter_in_type_and_layout_of_the_model(kind, shape, perm, at):
    model, pictures = brightness("m.onnx", kind, shape, perm, at), shades()
    compared = result("compare", model, model, "--data", pictures)
    assert compared["accuracy"] == [1.0, 1.0]
    assert set(compared["outputs"]) == {"scores", "brightest"}
    done = call("reorganize", model, "--data", pictures, "-o", "new.onnx", "-l", "w")
    assert done.exit_code == 0, done.output
    assert ("0 to 255" in done.stderr) == (kind in (TensorProto.UINT8, TensorProto.INT32))
    assert ("channels last" in done.stderr) == (perm is not None)
    after = result("compare", model, "new.onnx", "--data", pictures)
    assert after["accuracy"] == [1.0, 1.0]
    assert after["relative_difference"] < 1e-2  # the merged channels differ in scale only


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64", "bool"])
def test_arrays_enter_a_model_of_integers_from_0_to_255(dtype):
    model = brightness("m.onnx")
    x = np.repeat(np.array([60, 180]), 3).reshape(6, 1, 1, 1) * np.ones((6, 6, 6, 3))
    x = (x / 255 if dtype == "float32" else x > 100 if dtype == "bool" else x).astype(dtype)
    np.savez("data.npz", x=x, y=np.repeat([0, 1], 3))
    assert result("compare", model, model, "--data", "data.npz")["accuracy"] == [1.0, 1.0]
    np.savez("data.npz", x=x.astype(np.float32) + 0.25 * (dtype != "float32") + 2, y=[0] * 6)
    assert "cannot hold values" in call("inspect", model, "--data", "data.npz").stderr


SEEN = {"mean": [0.5], "std": 0.25}


@pytest.mark.parametrize(
    ("name", "text", "options", "expected"),
    [
        ("p.json", json.dumps(SEEN), [], [(1.0, 0.0, 0.0), (0.5, 0.25)]),
        ("p.yaml", "mean: 0.5\nstd: [0.25]\nchannels: bgr", [], [(0.0, 0.0, 1.0), (0.5, 0.25)]),
        ("p.json", json.dumps(SEEN), ["--std", "0.5"], [(1.0, 0.0, 0.0), (0.0, 0.5)]),
        ("preprocessor_config.json",
         json.dumps({"image_mean": [127.5] * 3, "image_std": [51.0] * 3, "do_rescale": False}), [],
         [(1.0, 0.0, 0.0), (0.5, 0.2)]),
        ("", "Image.NominalPixelRange=Normalized_1_1", [], [(1.0, 0.0, 0.0), (0.5, 0.5)]),
        ("", "Image.BitmapPixelFormat=Bgr8", [], [(0.0, 0.0, 1.0), (0.0, 1.0)]),
        ("p.json", "[]", [], "Expected size, mean, std, channels"),
        ("p.json", '{"scale": 2}', [], "expected size, mean, std, channels, got scale"),
        ("p.json", "{", [], "Cannot read p.json as JSON or YAML"),
    ],
)  # fmt: skip
def test_preprocessing_by_a_file_or_the_model(place, monkeypatch, name, text, options, expected):
    from rejuvenet.adapters.command_line.commands import inspect as commands

    model = brightness("m.onnx", TensorProto.FLOAT, ("n", 3, 6, 6), None, 0.5)
    for k in range(2):
        (place / "red" / str(k)).mkdir(parents=True)
        Image.new("RGB", (6, 6), (255, 0, 0)).save(place / "red" / str(k) / "a.png")
    words = ["inspect", model, "--data", "red", *options, "--json"]
    if name:
        (place / name).write_text(text)
        words += ["--preprocess", name]
    else:
        message = onnx.load(model)
        key, _, value = text.partition("=")
        message.metadata_props.add(key=key, value=value)
        onnx.save(message, model)
    seen = []
    opened = commands.open_batches
    monkeypatch.setattr(
        commands, "open_batches", lambda *given: (seen.append(opened(*given)), seen[0])[1]
    )
    done = call(*words)
    if isinstance(expected, str):
        assert done.exit_code == 1
        assert expected in done.stderr
        return
    assert done.exit_code == 0, done.output
    color, (mean, std) = expected
    images, _ = next(iter(seen[0]))
    np.testing.assert_allclose(images[0, :, 0, 0], (np.array(color) - mean) / std, atol=1e-5)
    assert ("By the model's metadata" in done.stderr) == (not name)


OWN = """
import numpy as np

def dark(image):
    return np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 510

def half(x):
    return x / 510

def levels(image):
    return np.asarray(image).transpose(2, 0, 1)

def flat(image):
    return np.zeros(7)

def fails(image):
    return 1 / 0

number = 3
"""


def test_preprocessing_by_a_function(place):
    (place / "own.py").write_text(OWN)
    floats = brightness("m.onnx", TensorProto.FLOAT, ("n", 3, 6, 6), None, 0.5)
    pictures = shades()
    x = np.repeat(np.uint8([60, 180]), 3)[:, None, None, None] * np.ones((1, 3, 6, 6), np.uint8)
    np.savez("data.npz", x=x, y=np.repeat([0, 1], 3))

    def right(model, data, *options):
        return result("compare", model, model, "--data", data, *options)["accuracy"][0]

    assert right(floats, pictures) == right(floats, "data.npz") == 1
    assert right(floats, pictures, "--preprocess", "own.py:dark") == 0.5  # all below 0.5
    assert right(floats, "data.npz", "--preprocess", "own:half") == 0.5
    # Levels, channels last: what the function makes enters in the model's layout and type.
    assert right(brightness("u.onnx"), pictures, "--preprocess", "own.py:levels") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["own.py:missing"], "There is no 'missing' in own.py"),
        (["own.py:number"], "own.py:number is of type int, expected a function"),
        (["absent.py:dark"], "Cannot import absent.py"),
        (["own.py:fails"], "own.py:fails failed: ZeroDivisionError: division by zero"),
        (["own.py:flat"], "own.py:flat gave 7, and the model takes 3 x 6 x 6"),
        (["own.py:dark", "--mean", "0.5"], "leave out --size, --mean and --std"),
        (["absent.json"], "There is no file absent.json"),
    ],
)
def test_a_function_that_does_not_do_is_refused(place, words, said):
    (place / "own.py").write_text(OWN)
    model = brightness("m.onnx", TensorProto.FLOAT, ("n", 3, 6, 6), None, 0.5)
    done = call("inspect", model, "--data", shades(), "--preprocess", *words)
    assert done.exit_code in (1, 2)
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_levels_are_not_normalized():
    done = call("inspect", brightness("m.onnx"), "--data", shades(), "--mean", "0.5")
    assert done.exit_code == 2
    assert "leave out --mean" in " ".join(done.stderr.replace("│", " ").split())


def test_unscaled_floats_are_warned_of():
    model = brightness("m.onnx", TensorProto.FLOAT, ("n", 3, 6, 6), None, 0.4)
    x = np.random.default_rng(0).uniform(0, 255, (8, 3, 6, 6))
    np.savez("data.npz", x=x, y=np.arange(8) % 2)
    assert "which enter as they are" in call("inspect", model, "--data", "data.npz").stderr
    scaled = call("inspect", model, "--data", "data.npz", "--std", "255")
    assert "Warning" not in scaled.stderr
    np.savez("data.npz", x=x.astype(np.uint8), y=np.arange(8) % 2)
    assert "Warning" not in call("inspect", model, "--data", "data.npz").stderr


def test_every_output_is_compared():
    a, b = brightness("a.onnx"), brightness("b.onnx")
    changed = onnx.load(b)
    changed.graph.node[-1].op_type = "ReduceMin"  # `scores` stay the same
    onnx.save(changed, b)
    pictures = shades()
    outputs = result("compare", a, b, "--data", pictures)["outputs"]
    assert outputs["scores"]["max_difference"] == 0.0
    assert outputs["brightest"]["max_difference"] == pytest.approx(180, rel=1e-5)
    shown = call("compare", a, b, "--data", pictures).stdout
    assert "brightest" in shown
    assert "180" in shown


def kind_of_picture(kind, path):
    """A gray picture of level 180, stored in one of the ways that there are."""
    gray = Image.new("L", (6, 6), 180)
    if kind == "16 bit":
        Image.fromarray(np.full((9, 8), 180 * 257, np.uint16)).save(f"{path}.png")
    elif kind == "float":
        Image.fromarray(np.full((6, 6), 180 / 255, np.float32)).save(f"{path}.tif")
    elif kind == "CMYK":
        gray.convert("RGB").convert("CMYK").save(f"{path}.jpg", quality=100)
    elif kind == "P with transparency":
        gray.convert("P").save(f"{path}.png", transparency=0)
    else:
        gray.convert(kind).save(f"{path}.png")


KINDS = ["16 bit", "float", "CMYK", "P with transparency", "L", "LA", "RGB", "RGBA", "P"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_every_kind_have_their_level(place, channels):
    for kind in KINDS:
        (place / "pictures" / kind).mkdir(parents=True)
        kind_of_picture(kind, place / "pictures" / kind / "a")
    from rejuvenet.adapters.images.image_data import Batches, read_data

    data = read_data(place / "pictures")
    ((images, _),) = Batches(data, shape=(channels, 6, 6))
    for name, image in zip(data.classes, images, strict=True):
        assert image.shape == (channels, 6, 6)
        assert image[:3] == pytest.approx(180 / 255, abs=0.01), name
        assert (image[3:] == 1).all()


def test_a_rotated_picture_stands_upright(place):
    (place / "pictures" / "0").mkdir(parents=True)
    picture = Image.fromarray(np.repeat([[0], [0], [255], [255]], 4, axis=1).astype(np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    picture.save(place / "pictures" / "0" / "a.png", exif=exif)
    from rejuvenet.adapters.images.image_data import Batches, read_data

    ((images, _),) = Batches(read_data(place / "pictures"), shape=(1, 4, 4))
    assert images[0, 0, :, 0].tolist() == [1, 1, 0, 0]


def litter(pictures):
    """What systems and broken copies leave in a folder of pictures."""
    whole = (pictures / "0" / "0.png").read_bytes()
    (pictures / "__MACOSX" / "0").mkdir(parents=True)
    (pictures / "__MACOSX" / "0" / "._0.png").write_bytes(b"")
    (pictures / ".DS_Store").write_bytes(b"")
    (pictures / "1" / "Thumbs.db").write_bytes(b"")
    (pictures / "1" / "._0.png").write_bytes(b"")
    (pictures / "1" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "0" / "empty.jpg").write_bytes(b"")


def test_litter_and_unreadable_pictures_are_left_out_and_named():
    model, pictures = brightness("m.onnx"), shades()
    clean = call("inspect", model, "--data", pictures, "--json")
    litter(pictures)
    for words in (["inspect", model], ["reorganize", model, "-o", "new.onnx", "-l", "w"]):
        done = call(*words, "--data", pictures, "--json")
        assert done.exit_code == 0, done.output
        said = [line for line in done.stderr.splitlines() if "Warning" in line]
        assert len(said) == 2
        assert "4 hidden or system files: .DS_Store, __MACOSX, 1/._0.png and 1 more." in said[0]
        assert "2 of 8 pictures" in said[1]
        assert "empty.jpg" in said[1]
    littered = call("inspect", model, "--data", pictures, "--json")
    assert littered.stdout == clean.stdout
    compared = result("compare", model, model, "--data", pictures)
    assert compared["accuracy"] == [1.0, 1.0]
    assert compared["images"] == 6


def test_most_pictures_unreadable_is_an_error(place):
    model, pictures = brightness("m.onnx"), shades()
    for path in sorted(pictures.glob("*/*.png"))[:4]:
        path.write_bytes(b"broken")
    done = call("reorganize", model, "--data", pictures, "-o", "new.onnx")
    assert done.exit_code == 1
    assert "Cannot read 4 of 6 pictures" in done.stderr
    assert not (place / "new.onnx").exists()


def test_a_bomb_is_refused_before_it_is_read(place, monkeypatch):
    from rejuvenet.adapters.images import array_file

    model = brightness("m.onnx")
    monkeypatch.setattr(array_file, "BOMB_BYTES", 2**20)
    np.savez_compressed("bomb.npz", x=np.zeros((200, 80, 80, 3), np.uint8), y=[0] * 200)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("the file was read"))
    done = call("inspect", model, "--data", "bomb.npz")
    assert done.exit_code == 1
    assert "would unpack" in done.stderr


def test_a_header_that_promises_more_than_the_file_is_refused(place):
    import io
    import zipfile

    header = io.BytesIO()
    promised = {"descr": "<f4", "fortran_order": False, "shape": (2**33, 3, 8, 8)}
    np.lib.format.write_array_header_1_0(header, promised)
    with zipfile.ZipFile("bomb.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("y.npy", b"")
    done = call("inspect", brightness("m.onnx"), "--data", "bomb.npz")
    assert done.exit_code == 1
    assert "would unpack" in done.stderr


@pytest.mark.parametrize(
    ("shape", "perm", "last"),
    [
        (("n", 3, 3, 3), None, False),
        (("n", 3, 3, 3), (0, 3, 1, 2), True),
        (("n", "a", "b", "c"), None, False),
        (("n", 16, 6, 3), None, False),
    ],
)
def test_the_graph_decides_where_channels_are(shape, perm, last):
    sizes = [n if isinstance(n, int) else 3 for n in shape]
    model = brightness("m.onnx", TensorProto.FLOAT, sizes, perm)
    changed = onnx.load(model)
    for axis, n in zip(changed.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        if isinstance(n, str):
            axis.dim_param = n
    onnx.save(changed, model)
    assert ImageInput.of(model).channels_last == last


def other_input(kind):
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 3])
    if kind == "sequence":
        return helper.make_sequence_type_proto(tensor)
    if kind == "optional":
        return helper.make_optional_type_proto(tensor)
    kinds = {"string": TensorProto.STRING, "bfloat16": TensorProto.BFLOAT16}
    return helper.make_tensor_type_proto(kinds[kind], ["n", 3])


@pytest.mark.parametrize("kind", ["sequence", "optional", "string", "bfloat16"])
@pytest.mark.parametrize("words", ["inspect", "compare", "reorganize"])
def test_inputs_that_are_no_images_are_one_sentence(words, kind):
    operators = {"sequence": "SequenceAt", "optional": "OptionalGetElement"}
    nodes = [
        helper.make_node("Constant", [], ["zero"], value_int=0),
        helper.make_node(operators.get(kind, "Identity"), ["x", "zero"][: 1 + (kind == "sequence")],
                         ["y"]),
    ]  # fmt: skip
    made = other_input(kind if kind in ("string", "bfloat16") else "string")
    made = made if kind not in operators else helper.make_tensor_type_proto(1, ["n", 3])
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_value_info("x", other_input(kind))],
        [helper.make_value_info("y", made)],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), "m.onnx")
    np.savez("data.npz", x=np.ones((4, 3)), y=[0, 1, 0, 1])
    more = {"inspect": [], "compare": ["m.onnx"], "reorganize": ["-o", "new.onnx"]}[words]
    done = call(words, "m.onnx", *more, "--data", "data.npz")
    assert done.exit_code == 1, done.output
    assert "Unexpected" not in done.stderr
    assert kind in done.stderr
