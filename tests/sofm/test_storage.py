"""A map in a file: what is written is read again, and what is not a map is refused."""

import pickle

import numpy as np
import pytest
from rejuvenet.sofm import SOFM


@pytest.mark.parametrize(
    "parameters",
    [
        {"shape": (4, 5), "topology": "hexagonal", "periodic": True, "sigma": (2.0, 0.7)},
        {"shape": 6, "random_state": np.random.RandomState(0), "init": "sample"},
        {"shape": np.int64(3), "callback": lambda som, record: None},
    ],
)
def test_save_and_load(parameters, digits, tmp_path):
    X, _ = digits
    som = SOFM(n_epochs=3, **parameters).fit(X)
    path = tmp_path / "digits.map"
    som.save(path)
    again = SOFM.load(path)
    assert again.codebook_.tobytes() == som.codebook_.tobytes()
    assert again.history_ == som.history_
    assert again.quantization_error_ == som.quantization_error_
    np.testing.assert_array_equal(again.predict(X), som.labels_)
    assert again.get_params()["shape"] == som.shape
    again.partial_fit(X)
    assert [p.name for p in tmp_path.iterdir()] == ["digits.map"]


def test_loading_refuses_what_is_not_a_map(tmp_path, digits):
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"not a map at all")
    with pytest.raises(ValueError, match="expected a map"):
        SOFM.load(wrong)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="something else"):
        SOFM.load(tmp_path / "other.npz")
    som = SOFM(3, n_epochs=1, init=digits[0][:3]).fit(digits[0])
    som.save(tmp_path / "map.npz")
    np.testing.assert_array_equal(SOFM.load(tmp_path / "map.npz").init, digits[0][:3])
    with np.load(tmp_path / "map.npz") as file:
        content = dict(file)
    content["version"] = np.array(99)
    np.savez(tmp_path / "later.npz", **content)
    with pytest.raises(ValueError, match="update"):
        SOFM.load(tmp_path / "later.npz")


@pytest.fixture(scope="module")
def saved(digits, tmp_path_factory):
    """The arrays of a saved map."""
    path = tmp_path_factory.mktemp("saved") / "map"
    SOFM(2, n_epochs=2).partial_fit(digits[0][:20, :3]).save(path)
    with np.load(path) as file:
        return dict(file)


def refused(path):
    with pytest.raises(ValueError, match=r"^expected a map of SOFM\.save, ") as caught:
        SOFM.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_compressed_file_that_is_damaged(saved, tmp_path):
    path = tmp_path / "compressed"
    np.savez_compressed(path.with_suffix(".npz"), **saved)
    whole = path.with_suffix(".npz").read_bytes()
    assert SOFM.load(path.with_suffix(".npz")).codebook_.shape == (2, 3)
    at = whole.index(b"codebook_.npy") + 60  # amid what zlib has written
    path.write_bytes(whole[:at] + bytes(40) + whole[at + 40 :])
    assert "cannot read" in refused(path)


@pytest.mark.parametrize("name", ["version", "parameters", "state", "codebook_", "labels_"])
def test_a_file_without_a_part(name, saved, tmp_path):
    content = {key: value for key, value in saved.items() if key != name}
    np.savez(tmp_path / "part.npz", **content)
    assert name in refused(tmp_path / "part.npz")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parameters", "{"), ("parameters", "[1]"), ("parameters", "{}"), ("state", "{'a': 1"),
        ("parameters", '{"shape": 0, "sigma": null, "learning_rate": null}'),
        ("parameters", '{"shape": 2, "sigma": null, "learning_rate": null, "speed": 1}'),
        ("state", "3"), ("state", '{"n_features_in_": 3}'), ("codebook_", np.zeros((5, 3))),
        ("codebook_", np.array("x")), ("version", np.array("new")), ("version", np.zeros(2)),
    ],
)  # fmt: skip
def test_a_file_with_a_wrong_part(name, value, saved, tmp_path):
    np.savez(tmp_path / "wrong.npz", **{**saved, name: np.asarray(value)})
    assert "cannot read" in refused(tmp_path / "wrong.npz")


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        SOFM.load(tmp_path / "nowhere")
    np.save(tmp_path / "array.npy", np.zeros(3))
    assert refused(tmp_path / "array.npy").endswith("it is no .npz file, or not all of one")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"a": 1}))
    refused(tmp_path / "pickle")


def test_set_output_is_kept(digits, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(digits[0][:50, :3], columns=["a", "b", "c"])
    SOFM(2, n_epochs=1).set_output(transform="pandas").fit(frame).save(tmp_path / "map")
    table = SOFM.load(tmp_path / "map").transform(frame)
    assert list(table.columns) == ["sofm0", "sofm1"]
