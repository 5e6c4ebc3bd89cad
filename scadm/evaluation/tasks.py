"""The evaluation's tasks: the paper's experiments on ranges of test faces, and losses of validation faces."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from scadm.config import EvaluationConfig, SamplingConfig
from scadm.data.shards import ShardReader
from scadm.evaluation import conditioning, editing, interpolation
from scadm.evaluation.baselines import MeanColours, own_colours
from scadm.evaluation.editing import ALL
from scadm.evaluation.fixed import EDIT, FIRST, SECOND, face_seeds, in_chunks
from scadm.evaluation.noise_only import NoiseSheet, PairSheet
from scadm.evaluation.scores import Judges
from scadm.evaluation.sheet import Sheet, extend
from scadm.evaluation.total_swap import TotalSheet, absent
from scadm.faces import LABELS
from scadm.files.manifest import Split
from scadm.pixels import Images, Labels
from scadm.synthesis import CHUNK, Synthesiser, load_synthesiser

Found = dict[str, Sheet]
"""What a task has measured, by name: `reconstruction/model`, `partial_swap/hair`, `noise_only/6/0` and so on."""


@dataclass(frozen=True)
class Subjects:
    """The model under test, its data and its judges: where they lie."""

    weights: str
    """Path or URI of the final checkpoint."""
    autoencoder: Path
    parser: Path
    shards: str
    sampling: SamplingConfig
    use_gpu: bool

    def synthesiser(self) -> Synthesiser:
        """The model, in a process that computes with one thread: in what order it adds depends on their number."""
        torch.set_num_threads(1)
        return load_synthesiser(self.weights, self.autoencoder, self.sampling, self.device)

    def judges(self) -> Judges:
        return Judges.load(self.parser, self.device)

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.use_gpu else "cpu")


@dataclass(frozen=True)
class Plan:
    """What is measured, and of how many faces: the first ones of each split."""

    config: EvaluationConfig
    test: int
    validation: int
    steps: tuple[int, ...]
    """Of sampling, for noise alone."""
    sampling_steps: int
    """Those of everything else."""
    seed: int

    @classmethod
    def of(
        cls, config: EvaluationConfig, sampling: SamplingConfig, splits: Mapping[Split, Sequence[str]], seed: int
    ) -> "Plan":
        """For the ids of all splits; of validation none where they are too few to compare."""
        test, fewer = (min(config.samples, len(splits[name])) for name in ("test", "validation"))
        return cls(
            config=config,
            test=test,
            validation=fewer if fewer >= conditioning.LEAST_FACES else 0,
            steps=tuple(sorted({*config.steps, sampling.steps})),
            sampling_steps=sampling.steps,
            seed=seed,
        )

    def tasks(self) -> list[dict[str, str | int]]:
        """Arguments of an `Examiner`, each for a range of faces; the dear ones first, so that none is late."""

        def ranges(kind: str, count: int, **more: int) -> list[dict[str, str | int]]:
            size = self.config.batch_size
            return [
                {"kind": kind, "start": start, "stop": min(start + size, count), **more}
                for start in range(0, count, size)
            ]

        noise = [task for steps in reversed(self.steps) for task in ranges("noise_only", self.test, steps=steps)]
        return ranges("edits", self.test) + noise + ranges("conditioning", self.validation)

    def weight(self, kind: str, start: int, stop: int, steps: int = 0) -> int:
        """Roughly the pictures that a task makes, for a bar."""
        if kind == "conditioning":
            return stop - start
        if kind == "noise_only":
            return (stop - start) * (1 + (steps == self.sampling_steps))
        ways = max(0, min(stop, self.config.interpolated) - start)
        return (stop - start) * (2 + len(self.config.swaps)) + ways * (2 * len(interpolation.WEIGHTS) + 1)


class Examiner:
    """Holds model, judges and data; called once for each task of a `Plan`."""

    def __init__(self, subjects: Subjects, colours: MeanColours, plan: Plan) -> None:
        self.synthesiser, self.judges = subjects.synthesiser(), subjects.judges()
        self.readers = {name: ShardReader(subjects.shards, name) for name in ("test", "validation")}
        self.colours, self.plan = colours, plan

    def __call__(self, kind: str, start: int, stop: int, **more: int) -> Found:
        positions = list(range(start, stop))
        if kind == "edits":
            return self._edits(positions)
        if kind == "noise_only":
            return self._noise_only(positions, **more)
        found = conditioning.score(
            self.synthesiser, self.readers["validation"], positions, self.plan.validation, self.plan.seed
        )
        return {"conditioning": found}

    def _seeds(self, positions: Sequence[int], draw: int) -> list[int]:
        return face_seeds([self.readers["test"][p].id for p in positions], self.plan.seed, draw)

    def _edits(self, positions: list[int]) -> Found:
        """Reconstruction, and the edits that are compared with it: all of a face with the same noise."""
        reader, model, judges = self.readers["test"], self.synthesiser, self.judges
        images, labels = reader.batch(positions)
        seeds = np.array(self._seeds(positions, EDIT))
        before = in_chunks(model.reconstruct, images, labels, seeds)
        rows = {
            "style_blind": self.colours.style_blind(labels),
            "own_colours": own_colours(images, labels),
            "model": before,
            "ceiling": in_chunks(model.round_trip, images),
        }
        found: Found = {f"reconstruction/{row}": judges.score(positions, p, labels, images) for row, p in rows.items()}
        found["truth"] = judges.read(positions, images, labels)

        for name, parts in self.plan.config.swaps.items():

            def swapped(
                chosen: list[int], references: Images, their_labels: Labels, parts: Sequence[str] = parts
            ) -> Images:
                make = partial(interpolate, model, parts, 1.0)
                return in_chunks(make, images[chosen], labels[chosen], references, their_labels, seeds[chosen])

            found[f"partial_swap/{name}"] = editing.swap(
                swapped, reader, positions, labels, before, self.plan.test, parts
            )

        others, their_labels = reader.batch([(p + 1) % self.plan.test for p in positions])
        dressed = in_chunks(model.dress, labels, others, their_labels, seeds)
        colours = editing.colour_sheet(positions, before, dressed, labels, others, their_labels, ALL)
        read = judges.read(positions, dressed, labels)
        lacking = absent(labels, their_labels)
        found["total_swap"] = extend(TotalSheet, read, went=colours.went, way=colours.way, absent=lacking)

        ways = [i for i, p in enumerate(positions) if p < self.plan.config.interpolated]
        if ways:
            pair = (images[ways], labels[ways], others[ways], their_labels[ways], seeds[ways])
            for row, parts in (("parts", interpolation.PARTS), ("whole", LABELS)):
                between = [in_chunks(partial(interpolate, model, parts, w), *pair) for w in interpolation.WEIGHTS]
                last = dressed[ways] if row == "whole" else in_chunks(partial(interpolate, model, parts, 1.0), *pair)
                found[f"interpolation/{row}"] = interpolation.measure(
                    [positions[i] for i in ways], [before[ways], *between, last]
                )
        return found

    def _noise_only(self, positions: list[int], steps: int) -> Found:
        """Of each mask a picture, and for diversity another one, where the number of steps is that of all else."""
        _, labels = self.readers["test"].batch(positions)
        model = replace(self.synthesiser, sampling=self.synthesiser.sampling.model_copy(update={"steps": steps}))
        draws = (FIRST, SECOND) if steps == self.plan.sampling_steps else (FIRST,)
        found: Found = {}
        made = []
        for draw in draws:
            start = time.perf_counter()
            pictures = in_chunks(model.random, labels, self._seeds(positions, draw))
            # Chunks are filled up: a picture is as dear as that of a full one.
            chunks = -(-len(positions) // CHUNK)
            seconds = np.full(len(positions), (time.perf_counter() - start) / (chunks * CHUNK))
            read = self.judges.read(positions, pictures, labels)
            found[f"noise_only/{steps}/{draw}"] = extend(NoiseSheet, read, seconds=seconds)
            made.append(pictures)
        if len(made) == 2:
            found["diversity"] = PairSheet(read.positions, self.judges.apart(*made))
        return found


def interpolate(
    model: Synthesiser,
    parts: Sequence[str],
    weight: float,
    images: Images,
    labels: Labels,
    references: Images,
    reference_labels: Labels,
    seeds: NDArray[np.int64],
) -> Images:
    """`Synthesiser.interpolate`, with what is not cut into chunks before what is; with weight 1 it swaps."""
    return model.interpolate(images, labels, references, reference_labels, parts, weight, seeds.tolist())
