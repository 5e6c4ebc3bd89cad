"""The figures of the report, after the paper's: the first test faces, the same and with the same noise for every model.

Also the worst reconstructions, which nobody would choose to show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scadm.config import EvaluationConfig
from scadm.data.shards import ShardReader
from scadm.evaluation.baselines import MeanColours, own_colours
from scadm.evaluation.figures import Figure, contact_sheet
from scadm.evaluation.fixed import EDIT, FIRST, SECOND, face_seeds, in_chunks
from scadm.evaluation.interpolation import PARTS, WEIGHTS
from scadm.evaluation.tasks import interpolate
from scadm.evaluation.total_swap import absent
from scadm.faces import LABELS
from scadm.pixels import Images, Labels
from scadm.progress import bar
from scadm.synthesis import Synthesiser

WORST = 16
"""Reconstructions shown for each metric."""
_WORST_SIDE = 64
_MORE_SEEDS = (SECOND + 1, SECOND + 2)


class Gallery:
    """Draws the figures of one model; its pictures are those that the tasks measured."""

    def __init__(
        self,
        synthesiser: Synthesiser,
        colours: MeanColours,
        reader: ShardReader,
        config: EvaluationConfig,
        steps: Sequence[int],
        seed: int,
    ) -> None:
        self.model, self.colours, self.reader = synthesiser, colours, reader
        self.config, self.steps, self.seed = config, steps, seed
        self.count = min(config.figure_rows, len(reader))
        self.images, self.labels = reader.batch(range(self.count))
        self.others, self.other_labels = reader.batch([(i + 1) % len(reader) for i in range(self.count)])

    def figures(self, worst: Mapping[str, Sequence[int]]) -> dict[str, Figure]:
        """All figures by name, in the order of the report; `worst` are positions by metric."""
        draw = {
            "three_ways": self._three_ways,
            "reconstruction": self._reconstruction,
            "total_swap": self._total_swap,
            "partial_swap": self._partial_swap,
            "interpolation_parts": partial(self._interpolation, "parts of a face", PARTS),
            "interpolation_whole": partial(self._interpolation, "the whole of a face", LABELS),
            "noise_only": self._noise_only,
            "noise_only_steps": self._noise_only_steps,
            **{f"worst_{metric}": partial(self._worst, metric, shown) for metric, shown in worst.items()},
        }
        drawn = {}
        with bar(len(draw), "figures", "figures") as progress:
            for name, one in draw.items():
                drawn[name] = one()
                progress.update(1)
        return drawn

    def save(self, worst: Mapping[str, Sequence[int]], folder: Path) -> Path:
        """Write each figure as a PNG; returns the folder."""
        for name, figure in self.figures(worst).items():
            figure.save(folder / f"{name}.png")
        return folder

    def _seeds(self, draw: int, positions: Sequence[int] | None = None) -> NDArray[np.int64]:
        chosen = range(self.count) if positions is None else positions
        return np.array(face_seeds([self.reader[p].id for p in chosen], self.seed, draw))

    @cached_property  # several figures show it
    def _reconstructed(self) -> Images:
        return in_chunks(self.model.reconstruct, self.images, self.labels, self._seeds(EDIT))

    def _swapped(self, parts: Sequence[str]) -> Images:
        pair = (self.images, self.labels, self.others, self.other_labels, self._seeds(EDIT))
        return in_chunks(partial(interpolate, self.model, parts, 1.0), *pair)

    def _random(self, draw: int, steps: int | None = None) -> Images:
        model = self.model
        if steps is not None:
            model = replace(model, sampling=model.sampling.model_copy(update={"steps": steps}))
        return in_chunks(model.random, self.labels, self._seeds(draw))

    def _three_ways(self) -> Figure:
        dressed = in_chunks(self.model.dress, self.labels, self.others, self.other_labels, self._seeds(EDIT))
        columns = {
            "mask": self.labels,
            "own_face": self.images,
            "in_its_style": self._reconstructed,
            "other_face": self.others,
            "in_that_style": dressed,
            "by_noise": self._random(FIRST),
        }
        return _figure(
            "Three ways to dress a mask",
            "After the paper's Fig. 1: the mask with the styles of its own face, with those of another face, and with "
            "styles that noise chooses.",
            columns,
        )

    def _reconstruction(self) -> Figure:
        columns = {
            "mask": self.labels,
            "truth": self.images,
            "style_blind": self.colours.style_blind(self.labels),
            "own_colours": own_colours(self.images, self.labels),
            "model": self._reconstructed,
            "ceiling": in_chunks(self.model.round_trip, self.images),
        }
        return _figure(
            "Reconstruction",
            "After Fig. 3: each face from its own mask and styles, between the baselines and the ceiling.",
            columns,
        )

    def _total_swap(self) -> Figure:
        """Of the first pairs in which the face shows something that its reference lacks, then of the others."""
        count = len(self.reader)
        looked = list(range(min(count, 8 * self.config.figure_rows)))
        _, labels = self.reader.batch(looked)
        _, other_labels = self.reader.batch([(p + 1) % count for p in looked])
        lacking = absent(labels, other_labels)
        order = np.argsort(~lacking.any(axis=1), kind="stable")[: self.count].tolist()
        images, labels = self.reader.batch(order)
        others, other_labels = self.reader.batch([(p + 1) % count for p in order])
        dressed = in_chunks(self.model.dress, labels, others, other_labels, self._seeds(EDIT, order))
        named = [", ".join(LABELS[k] for k in np.flatnonzero(lacking[p])) for p in order]
        columns = {"source": others, "its_mask": other_labels, "face": images, "mask": labels, "result": dressed}
        return _figure(
            "The whole style of another face",
            "After Fig. 4: the style of all parts comes from the source. On the left, parts that the source lacks: "
            "their style is what noise chooses.",
            columns,
            [f"lacks {names}" if names else "" for names in named],
        )

    def _partial_swap(self) -> Figure:
        swapped = {name: self._swapped(parts) for name, parts in self.config.swaps.items()}
        columns = {"source": self.others, "face": self.images, "reconstruction": self._reconstructed, **swapped}
        several = "; ".join(f"{n}: {', '.join(parts)}" for n, parts in self.config.swaps.items() if len(parts) > 1)
        return _figure(
            "The style of some parts",
            "After Fig. 5a: the style of the parts that a column names comes from the source; mask, noise and the "
            f"other styles stay. {several}.",
            columns,
        )

    def _interpolation(self, what: str, parts: Sequence[str]) -> Figure:
        pair = (self.images, self.labels, self.others, self.other_labels, self._seeds(EDIT))
        between = {
            f"{round(100 * weight)}_%": in_chunks(partial(interpolate, self.model, parts, weight), *pair)
            for weight in WEIGHTS
        }
        named = f" ({', '.join(parts)})" if len(parts) < len(LABELS) else ""
        columns = {
            "face": self.images,
            **{"0_%": self._reconstructed, **between, "100_%": self._swapped(parts)},
            "source": self.others,
        }
        return _figure(
            f"From one style to another: {what}",
            f"After Fig. 6: the codes{named} move in even steps from the face's own to the source's.",
            columns,
        )

    def _noise_only(self) -> Figure:
        drawn = {f"noise_{i + 1}": self._random(draw) for i, draw in enumerate((FIRST, SECOND, *_MORE_SEEDS))}
        columns = {"mask": self.labels, **drawn}
        return _figure("Noise alone", "The mask, and no reference: noise chooses every style.", columns)

    def _noise_only_steps(self) -> Figure:
        drawn = {f"{steps}_steps": self._random(FIRST, steps) for steps in self.steps}
        return _figure(
            "Noise alone, in few steps and many",
            "After Fig. 7: the same masks and the same noise, with other numbers of sampling steps.",
            {"mask": self.labels, **drawn},
        )

    def _worst(self, metric: str, positions: Sequence[int]) -> Figure:
        images, labels = self.reader.batch(positions)
        made = in_chunks(self.model.reconstruct, images, labels, self._seeds(EDIT, positions))
        columns = {
            self.reader[p].id: [image, face, mask]
            for p, image, face, mask in zip(positions, images, made, labels, strict=True)
        }
        return Figure(
            f"The worst by {metric}",
            f"The {len(positions)} reconstructions with the worst {metric}, by the faces' ids, the worst first.",
            contact_sheet(columns, ["truth", "model", "mask"], _WORST_SIDE),
        )


def _figure(title: str, caption: str, columns: Mapping[str, Images | Labels], row_titles: Sequence[str] = ()) -> Figure:
    """A column's name is its title; an underline stands for a blank."""
    titled = {name.replace("_", " "): list(part) for name, part in columns.items()}
    return Figure(title, caption, contact_sheet(titled, row_titles))
