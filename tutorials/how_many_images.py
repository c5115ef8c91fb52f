"""How many images `shrink` has to look at: accuracy without training, by their number.

    python tutorials/how_many_images.py --data /data/cifar100  # results/how_many_images.json

The first network of ``from_a_file.py``, of ten classes of CIFAR-100, is shrunk to half of its
channels by 250 to 2,000 of their training images, as many of every class, for three draws; and by
all 5,000 in the order of their folders.  Accuracy is that on the 1,000 test images.  What is in
the JSON is not measured again: means of 42.0, 42.5, 42.2 and 43.1 %, which the draws of one number
differ by as well, and 43.8 % by all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cifar100
import torch
from from_a_file import exported, pictures
from rejuvenet.adapters.images.image_data import Batches, read_data
from rejuvenet.adapters.images.image_model import score
from rejuvenet.adapters.images.sampling import sampled
from rejuvenet.adapters.onnx import load, shrink

RESULT = Path(__file__).parent / "results" / "how_many_images.json"
NUMBERS, DRAWS = (250, 500, 1000, 2000), 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of train_CC.webp, test_CC.webp")
    parser.add_argument("--work", type=Path, default=Path("build/how_many_images"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    model, smaller = given.work / "model.onnx", given.work / "smaller.onnx"
    if not model.exists():
        pictures(given.data, given.work)
        exported(given.data, given.work, epochs=10, seed=0)
    how = 128, (3, 32, 32), cifar100.MEAN.tolist(), cifar100.STD.tolist()
    train, test = (Batches(read_data(given.work / part), *how) for part in ("train", "test"))
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": []}
    results["original"] = score(str(model), test)
    if "in the order of the folders" not in results:
        shrink(load(model), train, ratio=0.5)[0].save(smaller)
        results["in the order of the folders"] = score(str(smaller), test)
    done = {(run["images"], run["draw"]) for run in results["runs"]}
    for n in NUMBERS:
        for draw in range(DRAWS):
            if (n, draw) in done:
                continue
            shrink(load(model), sampled(train, n, draw)[0], ratio=0.5)[0].save(smaller)
            run = {"images": n, "draw": draw, "accuracy": score(str(smaller), test)}
            results["runs"].append(run)
            RESULT.write_text(json.dumps(results, indent=1) + "\n")
            print(run, flush=True)


if __name__ == "__main__":
    main()
