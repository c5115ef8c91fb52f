"""An ONNX file is trained without its source; all but the values of its weights stays."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx2fx")

sys.path.insert(0, str(Path(__file__).parent))

from rejuvenet.adapters.finetune import trainable  # noqa: E402
from rejuvenet.adapters.finetune.augmentation import augmented  # noqa: E402
from rejuvenet.adapters.finetune.finetuning import finetune_file  # noqa: E402
from rejuvenet.adapters.finetune.rejuvenating import rejuvenate_file  # noqa: E402
from rejuvenet.adapters.finetune.training import Settings  # noqa: E402
from rejuvenet.adapters.images.image_data import ArrayFile, Batches  # noqa: E402
from rejuvenet.adapters.images.image_model import ImageModel  # noqa: E402
from rejuvenet.adapters.onnx import load  # noqa: E402
from trained_file import SETTINGS, WEIGHTS, arrays, data, folded, model  # noqa: E402


def skeleton(path):
    """Everything but the values of float arrays."""
    message = onnx.load(path)
    constants = [n.attribute[0].t for n in message.graph.node if n.op_type == "Constant"]
    for tensor in [*message.graph.initializer, *constants]:
        if tensor.data_type != TensorProto.INT64:
            tensor.raw_data = b""
    return message.SerializeToString()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"constants": True},
        {"shared": True},
        {"kind": "f2"},
        {"batch": 1, "shape": (1, 4)},
        {"batch": 1},
    ],
    ids=str,
)
def test_loss_falls_and_nothing_else_changes(tmp_path, form):
    given, output = model(tmp_path / "in.onnx", **form), tmp_path / "out.onnx"
    before = given.read_bytes()
    result = finetune_file(given, output, data(), settings=SETTINGS, held_out=0.25)
    epochs = result.trained.epochs
    assert epochs[-1].held_out_loss < epochs[0].held_out_loss
    onnx.checker.check_model(str(output), full_check=True)
    assert skeleton(output) == skeleton(given)
    old, new = arrays(given), arrays(output)
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    alone = form.get("shape") == (1, 4)  # one picture at a time: its statistics say nothing
    stay = {"pixels", "flat"} | ({"bn.mean", "bn.var"} if alone else set())
    assert changed == set(WEIGHTS) - stay
    assert given.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if "checkpoint" in p.name] == []


def test_softmax_at_the_end_is_seen(tmp_path):
    made = []
    for end in (None, "Softmax"):
        given = model(tmp_path / "in.onnx", end=end)
        finetune_file(given, tmp_path / "out.onnx", data(), settings=SETTINGS, held_out=0)
        made.append(arrays(tmp_path / "out.onnx"))
    for name in WEIGHTS:
        np.testing.assert_allclose(made[0][name], made[1][name], atol=1e-4)


def test_sigmoids_are_questions(tmp_path):
    given = model(tmp_path / "in.onnx", end="Sigmoid")
    settings = Settings(12, lr=0.03, augment="none")
    result = finetune_file(given, tmp_path / "out.onnx", data(), settings=settings, held_out=0.25)
    assert result.after["held-out"] > result.before["held-out"]
    shares = ImageModel(str(tmp_path / "out.onnx")).scores(next(iter(data()))[0])
    assert (np.abs(shares.sum(axis=1) - 1) > 1e-3).any()


@pytest.mark.parametrize("end", [None, "Softmax", "Sigmoid"])
def test_a_teacher_stands_for_labels(tmp_path, end):
    teacher, given = tmp_path / "teacher.onnx", model(tmp_path / "in.onnx", end=end)
    finetune_file(given, teacher, data(), settings=SETTINGS)
    result = finetune_file(
        given, tmp_path / "out.onnx", data(labels=False), teacher=teacher, settings=SETTINGS
    )
    first, *_, last = result.trained.epochs
    assert last.held_out_loss < 0.8 * first.held_out_loss
    assert last.held_out_accuracy is None
    other = onnx.load(teacher)
    other.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 7
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx takes 1x7x6, the images are 1x6x6"):
        finetune_file(given, tmp_path / "no.onnx", data(), teacher=tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="no labels; give --teacher"):
        finetune_file(given, tmp_path / "no.onnx", data(labels=False), settings=SETTINGS)


def without_pooling(path):
    """The same network, which makes a map of the last convolution: no scores of classes."""
    message = onnx.load(model(path))
    del message.graph.node[5:], message.graph.output[:]
    made = helper.make_tensor_value_info("h4", TensorProto.FLOAT, ["n", 4, 4, 4])
    message.graph.output.append(made)
    onnx.save(message, path)
    return path


def test_a_teacher_of_other_outputs_is_refused(tmp_path):
    given, other = model(tmp_path / "in.onnx"), without_pooling(tmp_path / "other.onnx")
    said = r"The teacher makes 64 numbers of a sample in its output 'h4', expected 3 as in 'y'"
    with pytest.raises(ValueError, match=said):
        finetune_file(given, tmp_path / "no.onnx", data(), teacher=other)


def test_outputs_that_are_no_scores_of_classes_have_no_accuracy(tmp_path):
    given, output = without_pooling(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    result = finetune_file(given, output, data(), teacher=given, settings=SETTINGS, test=data())
    assert set(result.before) == {"held-out", "test"}
    assert set(result.before.values()) == set(result.after.values()) == {None}
    with pytest.raises(ValueError, match="no output of the model has one score for each class"):
        rejuvenate_file(given, tmp_path / "no.onnx", data())


def test_batches_of_one_are_trained_on(tmp_path):
    given, output = model(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    result = finetune_file(given, output, data(batch_size=1), settings=SETTINGS)
    first, *_, last = result.trained.epochs
    assert last.held_out_loss < first.held_out_loss
    assert last.loss > 0


@pytest.mark.parametrize("after", ["epoch", "step"])
def test_a_run_goes_on_where_it_ended(tmp_path, after):
    class Killed(BaseException):
        pass

    given = model(tmp_path / "in.onnx")
    settings = Settings(4, lr=0.02, mixup=0.4, optimizer="sgd")
    finetune_file(given, tmp_path / "whole.onnx", data(), settings=settings)

    def in_second_epoch(batches, seen=[]):  # noqa: B006
        seen.append(0)
        for step, batch in enumerate(batches):
            if len(seen) == 2 and step == 2:
                raise Killed
            yield batch

    def at_second_epoch(epoch):
        if epoch.number == 2:
            raise Killed

    how = {"progress": in_second_epoch} if after == "step" else {"on_epoch": at_second_epoch}
    output = tmp_path / "out.onnx"
    with pytest.raises(Killed):
        finetune_file(given, output, data(), settings=settings, seconds=0, **how)
    assert not output.exists()
    checkpoint = tmp_path / "out.onnx.checkpoint"
    kept = checkpoint.read_bytes()
    checkpoint.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(ValueError, match="no checkpoint that can be read"):
        finetune_file(given, output, data(), settings=settings)
    checkpoint.write_bytes(kept)
    scaled = dataclasses.replace(data(), mean=[0.5])
    for images, other in ((data(), SETTINGS), (scaled, settings)):
        with pytest.raises(ValueError, match=r"belongs to a run with .* give --restart"):
            finetune_file(given, output, images, settings=other)
    result = finetune_file(given, output, data(), settings=settings)
    assert result.continued == (2 if after == "step" else 3)
    assert output.read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"in.onnx", "out.onnx", "whole.onnx"}


def test_the_best_epoch_is_kept_and_the_rest_left_out(tmp_path):
    given, output = model(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    finetune_file(given, given, data(), settings=Settings(20, lr=0.02), held_out=0.25)
    settings = Settings(30, lr=3.0, optimizer="sgd", patience=2)
    result = finetune_file(given, output, data(), settings=settings, held_out=0.25)
    assert result.trained.best == 0
    assert len(result.trained.epochs) == 3
    assert "the model as it was, whose weights are kept" in result.verdict
    assert result.verdict.endswith("stopped there, before epoch 30, as --patience says.")
    old, new = arrays(given), arrays(output)
    assert all(np.array_equal(old[name], new[name]) for name in old)


def test_classes_are_outputs_by_their_number(tmp_path):
    given, output = model(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    some = data()
    some.data.classes = [2, 0, 1]
    settings = Settings(15, lr=0.02, augment="none")
    result = finetune_file(given, output, some, settings=settings, held_out=0.25)
    assert result.after["held-out"] > 0.5
    named = ImageModel(str(output)).scores(some.data.x).argmax(axis=1)
    assert (named == np.array([2, 0, 1])[some.data.labels]).mean() > 0.5


def test_frozen_weights_stay(tmp_path):
    given, output = model(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    finetune_file(given, output, data(), settings=SETTINGS, held_out=0, freeze=["conv*", "bn.*"])
    old, new = arrays(given), arrays(output)
    assert {n for n in old if not np.array_equal(old[n], new[n])} == {"last", "last.bias"}
    with pytest.raises(ValueError, match="no weight is named 'head"):
        finetune_file(given, output, data(), settings=SETTINGS, freeze=["head*"])


def test_normalization_that_was_folded_comes_back_for_training(tmp_path):
    """Behind three of five convolutions: not where gates or outputs are made."""
    given, output = folded(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    module = trainable.TrainableGraph(load(given))
    before = module.arrays()
    images = next(iter(data()))[0]
    with torch.no_grad():
        first = module(torch.from_numpy(images))[0]
        assert module.renormalize([images]) == 3
        assert all(np.array_equal(before[name], x) for name, x in module.arrays().items())
        assert torch.allclose(module.eval()(torch.from_numpy(images))[0], first, atol=1e-5)
    how = {"settings": Settings(4, lr=0.02, augment="none"), "held_out": 0.25}
    result = finetune_file(given, output, data(96), renormalize=True, **how)
    epochs = result.trained.epochs
    assert epochs[-1].held_out_loss < epochs[0].held_out_loss
    assert skeleton(output) == skeleton(given)
    onnx.checker.check_model(str(output), full_check=True)
    plain = finetune_file(given, tmp_path / "plain.onnx", data(96), **how)
    assert epochs[-1].held_out_loss < plain.trained.epochs[-1].held_out_loss
    for bad, said in (({"batch": 1, "shape": (1, 4)}, "takes 1 samples"), ({}, "no convolution")):
        with pytest.raises(ValueError, match=said):
            finetune_file(model(tmp_path / "b.onnx", **bad), output, data(), renormalize=True)


def changed(path, change):
    """The small network after a change of its message."""
    message = onnx.load(model(path))
    change(message.graph)
    onnx.save(message, path)
    return path


def test_what_is_also_a_statistic_is_not_trained(tmp_path):
    """Exporters make one array of equal ones, as in a network that was just made."""
    def one_for_both(graph):
        graph.node[2].input[4] = "bn.scale"

    given, output = changed(tmp_path / "in.onnx", one_for_both), tmp_path / "out.onnx"
    result = finetune_file(given, output, data(), settings=SETTINGS)
    assert result.trained.epochs[-1].held_out_loss < result.trained.epochs[0].held_out_loss
    before, after = arrays(given), arrays(output)
    assert np.array_equal(before["bn.scale"], after["bn.scale"])
    assert not np.array_equal(before["conv/w.1"], after["conv/w.1"])


def test_normalization_by_the_batch_is_trained(tmp_path):
    def by_the_batch(graph):
        graph.node[2].attribute.append(helper.make_attribute("training_mode", 1))
        graph.node[2].output.extend(["mean now", "var now"])

    given = changed(tmp_path / "in.onnx", by_the_batch)
    first, *_, last = finetune_file(
        given, tmp_path / "out.onnx", data(), settings=SETTINGS
    ).trained.epochs
    assert last.held_out_loss < first.held_out_loss


def test_outputs_that_teach_nothing_are_named(tmp_path):
    def classes_only(graph):
        graph.node.append(helper.make_node("ArgMax", ["y"], ["class"], axis=1))
        graph.output[0].CopyFrom(
            helper.make_tensor_value_info("class", TensorProto.INT64, ["n", 1])
        )

    def logarithm(graph):
        graph.node[-1].output[0] = "before"
        graph.node.append(helper.make_node("Log", ["before"], ["y"]))

    given, output = changed(tmp_path / "in.onnx", classes_only), tmp_path / "no.onnx"
    with pytest.raises(ValueError, match=r"outputs \(class\) are whole numbers"):
        finetune_file(given, output, data(), teacher=given, settings=SETTINGS)
    given = changed(tmp_path / "in.onnx", logarithm)
    with pytest.raises(ValueError, match="Before any training the loss is not finite"):
        finetune_file(given, output, data(), settings=SETTINGS)


def test_what_cannot_be_trained_is_one_sentence(tmp_path, monkeypatch):
    given, output = model(tmp_path / "in.onnx"), tmp_path / "out.onnx"
    named = ArrayFile.of(data().data.x, np.array(["cat", "dog"] * 24))
    with pytest.raises(ValueError, match="2 classes of the images are not the model's 3 outputs"):
        finetune_file(given, output, Batches(named, 16))
    with pytest.raises(ValueError, match="loss is not finite"):
        finetune_file(given, output, data(), settings=Settings(30, lr=1e30, optimizer="sgd"))
    for idle in ({"freeze": ["last"]}, {"renormalize": True}):
        with pytest.raises(ValueError, match=f"{next(iter(idle))} does nothing with source"):
            finetune_file(given, output, data(), source="module.py:make", **idle)
    converted = trainable._converted

    def other(graph):
        made = converted(graph)
        made.rejuvenet_0 *= 1.001
        return made

    monkeypatch.setattr(trainable, "_converted", other)
    with pytest.raises(ValueError, match="more than the file's own noise"):
        finetune_file(given, output, data(), settings=SETTINGS)
    for bad in ("no weights", "operator"):
        message = onnx.load(model(tmp_path / "bad.onnx"))
        if bad == "operator":
            message.graph.node[4].CopyFrom(helper.make_node("NoSuch", ["h3"], ["h4"], domain="x"))
            message.opset_import.add(domain="x", version=1)
        else:
            del message.graph.node[:]
            message.graph.node.append(helper.make_node("Flatten", ["x"], ["y"]))
        onnx.save(message, tmp_path / "bad.onnx")
        with pytest.raises(ValueError, match=r"no weights in floating point|NoSuch"):
            finetune_file(tmp_path / "bad.onnx", output, data(), settings=SETTINGS)
    assert not output.exists()


def test_pictures_are_shifted_and_mirrored():
    images = np.arange(2 * 3 * 16 * 16, dtype="f4").reshape(2, 3, 16, 16)
    made = augmented(images, "shift+flip", np.random.default_rng(0))
    last = augmented(np.moveaxis(images, 1, 3), "shift+flip", np.random.default_rng(0), True)
    assert np.array_equal(np.moveaxis(last, 3, 1), made)
    assert augmented(images, "none", np.random.default_rng(0)).tobytes() == images.tobytes()
    for before, after in zip(images, made, strict=True):
        assert not np.array_equal(before, after)
        assert np.isin(after, before).all()
        center = after[0, 8, 8]
        assert (np.abs(np.argwhere(before[0] == center)[0] - 8) <= 2 + 1).all()
