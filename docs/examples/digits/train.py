"""Train a small network to read handwritten digits; data in, model and metrics out, all in one directory.

    train.py prepare  LAKE              write the digits as PGM images: LAKE/data/{train,test}/<digit>/*.pgm
    train.py train    LAKE PARAMS.json  train on LAKE/data, write LAKE/model/{model.pickle,metrics.json}
    train.py evaluate LAKE              load that model and measure it on LAKE/data/test

An ordinary training script: it knows files and nothing of snapfs.
"""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

GREY_MAX = 16
"""The digits have 17 shades of grey."""

HEADER = b"P5\n8 8\n%d\n" % GREY_MAX
"""Of a binary PGM image of 8 by 8 pixels, as any image viewer reads it."""


def prepare(lake: Path) -> None:
    digits = load_digits()
    numbers = np.arange(len(digits.target))
    train, test = train_test_split(numbers, test_size=0.3, random_state=0, stratify=digits.target)
    for part, members in (("train", train), ("test", test)):
        for digit in range(10):
            (lake / "data" / part / str(digit)).mkdir(parents=True)
        for number in members:
            pixels = digits.images[number].astype(np.uint8).tobytes()
            image = lake / "data" / part / str(digits.target[number]) / f"{number:04d}.pgm"
            image.write_bytes(HEADER + pixels)
    print(f"{len(train)} images to train on, {len(test)} to test with")


def load_images(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels scaled to 0..1, one image a row, and the digit that each one shows."""
    images = sorted(directory.glob("*/*.pgm"))
    pixels = [np.frombuffer(image.read_bytes().removeprefix(HEADER), dtype=np.uint8) for image in images]
    return np.stack(pixels) / GREY_MAX, np.array([int(image.parent.name) for image in images])


def accuracy(model: MLPClassifier, lake: Path) -> float:
    return round(float(model.score(*load_images(lake / "data" / "test"))), 4)


def train(lake: Path, params_file: Path) -> None:
    params = json.loads(params_file.read_text())
    model = MLPClassifier(**params)
    with warnings.catch_warnings():
        # A first attempt that stops early is part of the story.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(*load_images(lake / "data" / "train"))
    directory = lake / "model"
    directory.mkdir(exist_ok=True)
    (directory / "model.pickle").write_bytes(pickle.dumps(model))
    metrics = {"accuracy": accuracy(model, lake), "epochs": model.n_iter_, "params": params}
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(f"accuracy {metrics['accuracy']:.4f} after {model.n_iter_} epochs")


def evaluate(lake: Path) -> None:
    model = pickle.loads((lake / "model" / "model.pickle").read_bytes())
    print(f"accuracy {accuracy(model, lake):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small network to read handwritten digits.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("prepare", "train", "evaluate"):
        verbs.add_parser(verb).add_argument("lake", type=Path)
    verbs.choices["train"].add_argument("params", type=Path)
    args = parser.parse_args()
    if args.verb == "prepare":
        prepare(args.lake)
    elif args.verb == "train":
        train(args.lake, args.params)
    else:
        evaluate(args.lake)


if __name__ == "__main__":
    main()
