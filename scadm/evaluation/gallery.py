"""The figures of the report, from the first test faces: the same faces and seeds for every model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from scadm.data.shards import ShardReader
from scadm.evaluation.baselines import MeanColours
from scadm.evaluation.figures import contact_sheet
from scadm.evaluation.reconstruction import rows
from scadm.evaluation.report import Figure
from scadm.synthesis import Synthesiser


def save(pictures: Mapping[str, Figure], folder: Path) -> Path:
    """Write each figure as a PNG; returns the folder."""
    for name, figure in pictures.items():
        figure.image.save(folder / f"{name}.png")
    return folder


def figures(synthesiser: Synthesiser, colours: MeanColours, reader: ShardReader, count: int) -> dict[str, Figure]:
    """Figures by file name."""
    positions = list(range(min(count, len(reader))))
    images, labels = reader.batch(positions)
    other = np.roll(np.arange(len(images)), -1)
    sources, source_labels = images[other], labels[other]

    def figure(title: str, caption: str, **columns: np.ndarray) -> Figure:
        sheet: Image.Image = contact_sheet({name.replace("_", " "): list(part) for name, part in columns.items()})
        return Figure(title, caption, sheet)

    found = rows(synthesiser, colours, images, labels, positions)
    hair = synthesiser.swap(images, labels, sources, source_labels, ["hair"], positions)
    skin = synthesiser.swap(
        images, labels, sources, source_labels, ["skin", "nose", "neck", "l_ear", "r_ear"], positions
    )
    lips = synthesiser.swap(images, labels, sources, source_labels, ["u_lip", "l_lip"], positions)
    steps = {
        f"{round(100 * weight)}_%": synthesiser.interpolate(
            images, labels, sources, source_labels, ["hair", "skin", "nose", "neck"], weight, positions
        )
        for weight in (0.0, 0.25, 0.5, 0.75, 1.0)
    }
    noise = {
        f"seed_{seed}": synthesiser.random(labels, [1000 * seed + position for position in positions])
        for seed in (1, 2, 3, 4)
    }
    return {
        "reconstruction": figure(
            "Reconstruction",
            "Each face from its own mask and styles, between the baselines and the ceiling.",
            mask=labels,
            truth=images,
            **found,
        ),
        "swap": figure(
            "Swapping parts",
            "The style of hair, of skin, or of the lips comes from the source; mask, noise and the other styles stay.",
            source=sources,
            face=images,
            reconstruction=found["model"],
            hair=hair,
            skin=skin,
            lips=lips,
        ),
        "interpolation": figure(
            "Interpolation",
            "The codes of hair and skin move from the face's own to the source's.",
            face=images,
            **steps,
            source=sources,
        ),
        "noise_only": figure(
            "Noise alone",
            "The mask, and no reference: the noise chooses every style.",
            mask=labels,
            **noise,
        ),
    }
