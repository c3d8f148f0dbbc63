"""Which model reads handwritten digits best? A sweep over 1,797 scans of 8 x 8 pixels.

    python examples/digits/pipeline.py              # all models; the second time nothing is computed
    python examples/digits/pipeline.py --models 4   # a quick look: two models on two kinds of features
    furu-async run examples/digits/pipeline.py:leaderboard --dry-run
    furu-async run examples/digits/pipeline.py:leaderboard --executor slurm-pool --workers 8

scans -> split -> features (three kinds) -> models (ten on each) -> evaluations -> leaderboard with a picture

scikit-learn and matplotlib are imported where they are used: whoever only loads results does not wait for them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from furu_async import Furu, Local, SlurmSpec, field, run_dag

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

SMALL = SlurmSpec(cpus=1, mem_gb=1, time_min=10)
"""What every node asks of Slurm, where it runs there."""


class Scans(Furu["tuple[Floats, Ints]"]):
    """The scans (1797 x 64, from 0 to 1) and the digits they show. Comes with scikit-learn, needs no network."""

    def _spec(self) -> SlurmSpec:
        return SMALL

    def _create(self) -> tuple[Floats, Ints]:
        import numpy as np
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        np.savez(self.furu_dir / "scans.npz", pixels=pixels / 16.0, digits=digits.astype(np.int64))
        return self._load()

    def _load(self) -> tuple[Floats, Ints]:
        import numpy as np

        with np.load(self.furu_dir / "scans.npz") as file:
            return file["pixels"], file["digits"]


class Split(Furu[dict[str, list[int]]]):
    """Which scans are for training and which for testing."""

    scans: Scans = field(default_factory=Scans)
    test_share: float = 0.3
    seed: int = 7

    def _spec(self) -> SlurmSpec:
        return SMALL

    def _create(self) -> dict[str, list[int]]:
        import numpy as np

        _pixels, digits = self.scans.get()
        order = np.random.default_rng(self.seed).permutation(len(digits))
        border = round(len(digits) * self.test_share)
        return {"test": sorted(order[:border].tolist()), "train": sorted(order[border:].tolist())}


class Features(Furu["Floats"]):
    """What the models see of the scans: one row per scan."""

    split: Split = field(default_factory=Split)

    def _spec(self) -> SlurmSpec:
        return SMALL


class Pixels(Features):
    """The pixels as they are."""

    def _create(self) -> Floats:
        return self.split.scans.get()[0]


class Gradients(Features):
    """In which directions the brightness changes, counted in 2 x 2 cells."""

    directions: int = 8

    def _create(self) -> Floats:
        import numpy as np

        images = self.split.scans.get()[0].reshape(-1, 8, 8)
        down, right = np.gradient(images, axis=(1, 2))
        strength = np.hypot(down, right)
        angle = np.floor((np.arctan2(down, right) + np.pi) / (2 * np.pi) * self.directions).astype(int)
        cells = []
        for direction in range(self.directions):
            matching = np.where(angle % self.directions == direction, strength, 0.0)
            cells.append(matching.reshape(-1, 4, 2, 4, 2).sum(axis=(2, 4)).reshape(len(images), 16))
        return np.concatenate(cells, axis=1)


class Components(Features):
    """The coordinates along the principal components of the training scans."""

    count: int = 24

    def _create(self) -> Floats:
        import numpy as np

        pixels, train = self.split.scans.get()[0], self.split.get()["train"]
        centre = pixels[train].mean(axis=0)
        _left, _sizes, axes = np.linalg.svd(pixels[train] - centre, full_matrices=False)
        axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[
            :, None
        ]  # a sign is arbitrary
        return (pixels - centre) @ axes[: self.count].T


class Model(Furu["Ints"]):
    """A trained model; its result is what it reads in the test scans."""

    features: Features = field(default_factory=Pixels)

    def _spec(self) -> SlurmSpec:
        return SMALL

    def describe(self) -> str:
        """Name of the model and its settings, for the leaderboard."""
        raise NotImplementedError

    def learned(self, estimator: Any) -> Ints:
        """Train a scikit-learn estimator, on one thread since models are trained side by side, and let it read."""
        from threadpoolctl import threadpool_limits

        split, rows = self.features.split.get(), self.features.get()
        digits = self.features.split.scans.get()[1]
        with threadpool_limits(1):
            estimator.fit(rows[split["train"]], digits[split["train"]])
            read: Ints = estimator.predict(rows[split["test"]])
        return read


class Neighbours(Model):
    """The digit of the most similar training scans."""

    k: int = 3

    def describe(self) -> str:
        return f"nearest neighbours, k={self.k}"

    def _create(self) -> Ints:
        from sklearn.neighbors import KNeighborsClassifier

        return self.learned(KNeighborsClassifier(self.k))


class SupportVectors(Model):
    """A support vector machine with radial kernel."""

    c: float = 1.0

    def describe(self) -> str:
        return f"support vectors, c={self.c:g}"

    def _create(self) -> Ints:
        from sklearn.svm import SVC

        return self.learned(SVC(C=self.c))


class Forest(Model):
    """A forest of decision trees."""

    trees: int = 100
    seed: int = 7

    def describe(self) -> str:
        return f"forest, {self.trees} trees"

    def _create(self) -> Ints:
        from sklearn.ensemble import RandomForestClassifier

        return self.learned(RandomForestClassifier(self.trees, random_state=self.seed))


class Softmax(Model):
    """A linear model, trained step by step by an async `_create`: it can be stopped between two epochs."""

    rate: float = 0.5
    epochs: int = 40
    seed: int = 7

    def describe(self) -> str:
        return f"softmax, rate={self.rate:g}"

    async def _create(self) -> Ints:
        import numpy as np

        split, rows = await self.features.split.aget(), await self.features.aget()
        _pixels, digits = await self.features.split.scans.aget()
        rows = np.column_stack([rows / np.abs(rows).max(), np.ones(len(rows))])
        train, wanted = np.array(split["train"]), np.eye(10)[digits]
        weights = np.zeros((rows.shape[1], 10))
        random = np.random.default_rng(self.seed)
        for _epoch in range(self.epochs):
            for batch in np.array_split(random.permutation(train), len(train) // 20):
                scores = rows[batch] @ weights
                likely = np.exp(scores - scores.max(axis=1, keepdims=True))
                likely /= likely.sum(axis=1, keepdims=True)
                weights -= self.rate * rows[batch].T @ (likely - wanted[batch]) / len(batch)
            await asyncio.sleep(0)
        np.save(self.furu_dir / "weights.npy", weights)
        return (rows[split["test"]] @ weights).argmax(axis=1)


class Evaluation(Furu[dict[str, Any]]):
    """How often a model is right, and what it takes for what."""

    model: Model

    def _spec(self) -> SlurmSpec:
        return SMALL

    def _create(self) -> dict[str, Any]:
        import numpy as np

        split = self.model.features.split
        shown, read = split.scans.get()[1][split.get()["test"]], self.model.get()
        confusion = np.zeros((10, 10), dtype=int)
        np.add.at(confusion, (shown, read), 1)
        return {
            "model": self.model.describe(),
            "features": type(self.model.features).__name__.lower(),
            "right": int(confusion.trace()),
            "of": len(shown),
            "confusion": confusion.tolist(),
        }


class Leaderboard(Furu[str]):
    """All evaluations, best first, and a picture of what the best model confuses."""

    evaluations: tuple[Evaluation, ...]

    def _spec(self) -> SlurmSpec:
        return SMALL

    async def _create(self) -> str:
        rows = [await each.aget() for each in self.evaluations]
        rows.sort(key=lambda row: (-row["right"], row["model"], row["features"]))
        lines = [f"{'':>3}  {'right':>7}  {'features':<11} model"]
        for place, row in enumerate(rows, start=1):
            lines.append(
                f"{place:>3}  {row['right'] / row['of']:>7.2%}  {row['features']:<11} {row['model']}"
            )
        (self.furu_dir / "leaderboard.json").write_text(json.dumps(rows, indent=1) + "\n")
        draw_confusion(rows[0], self.furu_dir / "confusion.png")
        return "\n".join(lines)


def draw_confusion(row: dict[str, Any], path: Path) -> None:
    """A picture of one evaluation's confusion matrix."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 6), layout="constrained")
    axes.imshow(row["confusion"], cmap="Blues")
    for shown, counts in enumerate(row["confusion"]):
        for read, count in enumerate(counts):
            if count:
                colour = "white" if shown == read else "black"
                axes.text(read, shown, str(count), ha="center", va="center", color=colour)
    axes.set(xticks=range(10), yticks=range(10), xlabel="read", ylabel="shown")
    axes.set_title(f"{row['model']} on {row['features']}: {row['right']} of {row['of']} right")
    figure.savefig(path)
    pyplot.close(figure)


def sweep(most: int | None = None) -> list[Model]:
    """The models to compare: ten on each kind of features; with ``most``, that many in all."""
    models: list[Model] = []
    for features in (Pixels(), Gradients(), Components()):
        models += [Softmax(features=features, rate=rate) for rate in (0.1, 1.0)]
        models += [Neighbours(features=features, k=k) for k in (1, 3, 5)]
        models += [SupportVectors(features=features, c=c) for c in (0.1, 1.0, 10.0)]
        models += [Forest(features=features, trees=trees) for trees in (50, 300)]
    if most is None:
        return models
    apart = [model for start in range(10) for model in models[start::10]]  # of each kind of features in turn
    return apart[:most]


def leaderboard(most: int | None = None) -> Leaderboard:
    """What is to be computed; everything else follows from it."""
    return Leaderboard(evaluations=tuple(Evaluation(model=model) for model in sweep(most)))


async def main() -> None:
    parser = argparse.ArgumentParser(description="Compare models on handwritten digits.")
    parser.add_argument("--models", type=int, help="only so many of the 30")
    parser.add_argument("--workers", type=int, help="models trained at a time; default: by CPUs")
    options = parser.parse_args()

    board = leaderboard(options.models)
    await run_dag(board, executor=Local(workers=options.workers), progress=True)
    print(await board.aget())
    print(f"what the best one confuses: {board.furu_dir / 'confusion.png'}")


if __name__ == "__main__":
    asyncio.run(main())
