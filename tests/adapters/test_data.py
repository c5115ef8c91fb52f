"""Labelled images: what is read, and one sentence for what cannot be."""

import io
import tarfile

import numpy as np
import pytest
from rejuvenet.adapters.images.image_data import (
    ArrayFile,
    Batches,
    normalize,
    output_labels,
    read_data,
)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def read_all(data, **options):
    images, labels = zip(*Batches(data, **options), strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.fixture
def folder(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for name, color in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
        (tmp_path / name).mkdir()
        for k, size in enumerate([(8, 8), (16, 12), (9, 20)]):
            Image.new("RGB", size, color).save(tmp_path / name / f"{k}.png")
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    return tmp_path


def test_folder_gives_pictures_in_the_shape_of_the_model(folder):
    data = read_data(folder)
    x, y = read_all(data, batch_size=4, shape=(3, 8, 8))
    assert x.shape == (6, 3, 8, 8)
    assert x.dtype == np.float32
    assert data.classes == ["cat", "dog"]
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.allclose(x[0, :, 0, 0], (1, 0, 0))
    assert np.allclose(x[5, :, 7, 7], (0, 0, 1))


def test_folder_in_gray_and_normalized(folder):
    x, _ = read_all(read_data(folder), shape=(1, 4, 4), mean=(0.5,), std=(0.5,))
    assert x.shape == (6, 1, 4, 4)
    assert np.allclose(x[0], (76 / 255 - 0.5) / 0.5)  # ITU-R 601: 0.299 * 255


def test_folder_of_different_sizes_needs_a_size(folder):
    with pytest.raises(ValueError, match="--size"):
        read_all(read_data(folder))


def test_unreadable_picture_is_named(folder):
    (folder / "dog" / "9.png").write_bytes(b"\x89PNG broken")
    with pytest.warns(UserWarning, match=r"Cannot read 1 of 7 pictures.*9\.png"):
        _, y = read_all(read_data(folder), shape=(3, 8, 8))
    assert y.tolist() == [0, 0, 0, 1, 1, 1]


def test_numbered_folders_are_sorted_as_numbers(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for name in ("10", "2", "1"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "a.png")
    data = read_data(tmp_path)
    assert data.classes == ["1", "2", "10"]
    assert output_labels(data, 11).tolist() == [1, 2, 10]
    assert output_labels(data, 10) is None


def test_folder_of_nothing_and_class_without_pictures(tmp_path):
    with pytest.raises(ValueError, match="one sub-folder per class"):
        read_data(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="Class 'empty' has no picture"):
        read_data(tmp_path)


SHADES = {"a.png": 0, "b.png": 102, "c.png": 255}


def flat(folder):
    Image = pytest.importorskip("PIL.Image")
    folder.mkdir()
    for name, level in SHADES.items():
        Image.new("L", (4, 4), level).save(folder / name)
    return folder


def table(folder, rows, name="metadata.csv"):
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder / name


def parquet(folder, rows):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame(rows).to_parquet(folder / "part.parquet")
    return folder / "part.parquet"


def shard(folder, labels, path="part-0.tar"):
    with tarfile.open(folder / path, "w") as archive:
        for name, label in zip(SHADES, labels, strict=True):
            archive.add(folder / name, f"train/{name}")
            if label is not None:
                entry = tarfile.TarInfo(f"train/{name[0]}.cls")
                entry.size = len(label)
                archive.addfile(entry, io.BytesIO(label.encode()))
    return folder / path


def held(folder):
    return [{"bytes": (folder / name).read_bytes(), "path": name} for name in SHADES]


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (lambda f: f, None),
        (lambda f: table(f, ["path", *SHADES], "list.csv"), None),
        (lambda f: table(f, ["label,path", "10,a.png", "9,b.png", "9,c.png"], "list.csv"),
         [1, 0, 0]),
        (lambda f: table(f, ["file_name,label", "a.png,x", "b.png,y", "c.png,x"]).parent,
         [0, 1, 0]),
        (lambda f: parquet(f, {"path": list(SHADES), "label": [7, 7, 3]}), [1, 1, 0]),
        (lambda f: parquet(f, {"image": held(f), "label": [0, 1, 1]}).parent, [0, 1, 1]),
        (lambda f: shard(f, ["2", "0", "2"]), [1, 0, 1]),
        (lambda f: shard(f, [None] * 3).parent, None),
    ],
    ids=["flat", "paths", "csv", "metadata", "parquet", "bytes", "shard", "shards"],
)  # fmt: skip
def test_pictures_and_labels_wherever_they_lie(tmp_path, make, labels):
    data = read_data(make(flat(tmp_path / "flat")))
    ((images, given),) = Batches(data, shape=(1, 4, 4))
    assert np.allclose(images[:, 0, 0, 0], [0, 0.4, 1])
    assert data.labelled == (labels is not None)
    assert (None if given is None else given.tolist()) == labels


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["name,label", "a.png,1"], "Expected a column path"),
        (["path,label", "a.png,1", "b.png,"], "b.png has no label, and others have"),
        (["path"], "There is no picture in"),
    ],
)
def test_tables_that_say_too_little(tmp_path, rows, said):
    with pytest.raises(ValueError, match=said):
        read_data(table(flat(tmp_path / "flat"), rows, "list.csv"))


def test_pictures_are_decoded_once_as_far_as_memory_goes(tmp_path, monkeypatch):
    from rejuvenet.adapters.images import pictures

    decoded, read = [], pictures.read_picture
    monkeypatch.setattr(
        pictures, "read_picture", lambda file, *size: (decoded.append(file), read(file, *size))[1]
    )
    monkeypatch.setattr(pictures, "KEPT_BYTES", 2 * 16)
    data = read_data(flat(tmp_path / "flat"))
    first, again = (read_all_images(data) for _ in range(2))
    assert np.array_equal(first, again)
    assert len(decoded) == 3 + 1


def read_all_images(data):
    return np.concatenate([images for images, _ in Batches(data, 2, (1, 4, 4))])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((6, 5, 4), (6, 1, 5, 4)), ((6, 5, 4, 3), (6, 3, 5, 4)), ((6, 3, 5, 4), (6, 3, 5, 4))],
)
def test_arrays_put_channels_first(tmp_path, shape, expected):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    read, _ = read_all(read_data(save(tmp_path / "a.npz", x=x, y=np.arange(6))), batch_size=4)
    assert read.shape == expected
    assert np.isclose(read.max(), x.max() / 255)


def test_batches_can_be_read_again_and_in_another_order():
    data = ArrayFile.of(np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1), np.arange(5))
    batches = Batches(data, batch_size=2, order=np.array([4, 0, 2]))
    for _ in range(2):
        assert [x.ravel().tolist() for x, _ in batches] == [[4, 0], [2]]
        assert [y.tolist() for _, y in batches] == [[4, 0], [2]]
    assert len(batches) == 2


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.ones((4, 8, 8)), "y": np.arange(5)}, "4 images in x and 5 labels in y"),
        ({"z": np.ones((4, 8, 8))}, "array x, and labels y, in .*found z"),
        ({"x": np.ones((0, 8, 8)), "y": np.ones(0, int)}, "no image"),
        ({"x": np.ones((4, 8, 8)), "y": np.eye(4)}, "one label for each image"),
        ({"x": np.ones((4, 8, 8)), "y": np.linspace(0, 1, 4)}, "whole numbers or names"),
        ({"x": np.array([None] * 4), "y": np.arange(4)}, "pickled"),
        ({"x": np.array(["a"] * 4)[:, None], "y": np.arange(4)}, "numbers in x"),
    ],
)
def test_arrays_that_do_not_pair(tmp_path, arrays, said):
    with pytest.raises(ValueError, match=said):
        read_data(save(tmp_path / "a.npz", **arrays))


def test_files_that_are_no_data(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        read_data(tmp_path / "none.npz")
    for name, said in ("text.npz", "text.npz is damaged: it is no"), ("text", r"or an \.npz file"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(ValueError, match=said):
            read_data(tmp_path / name)
    whole = save(tmp_path / "a.npz", x=np.ones((4, 8, 8)), y=np.arange(4)).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"\.npz file"):
        read_data(tmp_path / "cut.npz")


def test_nan_names_the_image():
    x = np.zeros((5, 1, 2, 2), np.float32)
    x[3, 0, 1, 1] = np.nan
    with pytest.raises(ValueError, match=r"Image 3 .* NaN"):
        read_all(ArrayFile.of(x, np.arange(5)), batch_size=2)


def test_arrays_of_another_size():
    data = ArrayFile.of(np.zeros((2, 1, 8, 8)), np.arange(2))
    with pytest.raises(ValueError, match=r"takes images of 3x32x32.* holds 1x8x8"):
        read_all(data, shape=(3, 32, 32))


def test_mean_and_std_are_checked():
    images = np.ones((1, 3, 2, 2), np.float32)
    with pytest.raises(ValueError, match="one mean or one for each of the 3 channels, got 2"):
        normalize(images, (0.1, 0.2), None)
    with pytest.raises(ValueError, match="std to be above 0"):
        normalize(images, None, (0.0,))


def test_labels_that_are_names():
    data = ArrayFile.of(np.zeros((3, 1, 2, 2)), np.array(["b", "a", "b"]))
    assert data.classes == ["a", "b"]
    assert output_labels(data, 2).tolist() == [1, 0, 1]
    assert output_labels(data, 3) is None
