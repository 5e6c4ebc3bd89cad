"""The figures of the report, from the first test faces: the same faces and seeds for every model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from scadm.evaluation.baselines import MeanColours
from scadm.evaluation.figures import contact_sheet
from scadm.evaluation.reconstruction import rows
from scadm.evaluation.report import Figure
from scadm.pixels import FaceSource, Images
from scadm.progress import bar
from scadm.synthesis import Synthesiser


def save(pictures: Mapping[str, Figure], folder: Path) -> Path:
    """Write each figure as a PNG; returns the folder."""
    for name, figure in pictures.items():
        figure.image.save(folder / f"{name}.png")
    return folder


_SWAPPED = {
    "hair": ["hair"],
    "skin": ["skin", "nose", "neck", "l_ear", "r_ear"],
    "lips": ["u_lip", "l_lip"],
}
_INTERPOLATED = ["hair", "skin", "nose", "neck"]
_WEIGHTS = (0.25, 0.5, 0.75, 1.0)
_SEEDS = (1, 2, 3, 4)


def figures(synthesiser: Synthesiser, colours: MeanColours, source: FaceSource, count: int) -> dict[str, Figure]:
    """Figures by file name, with a bar of the faces that the model makes for them."""
    positions = list(range(min(count, len(source))))
    images, labels = source.batch(positions)
    other = np.roll(np.arange(len(images)), -1)
    pair = (images, labels, images[other], labels[other])
    passes = 1 + len(_SWAPPED) + len(_WEIGHTS) + len(_SEEDS)
    with bar(passes * len(positions), "figures", "faces") as progress:

        def counted(made: Images) -> Images:
            progress.update(len(made))
            return made

        found = rows(synthesiser, colours, images, labels, positions)
        counted(found["model"])
        swapped = {name: counted(synthesiser.swap(*pair, parts, positions)) for name, parts in _SWAPPED.items()}
        # At weight 0 the codes are the face's own: that is the reconstruction.
        steps = {"0_%": found["model"]} | {
            f"{round(100 * weight)}_%": counted(synthesiser.interpolate(*pair, _INTERPOLATED, weight, positions))
            for weight in _WEIGHTS
        }
        noise = {
            f"seed_{seed}": counted(synthesiser.random(labels, [1000 * seed + position for position in positions]))
            for seed in _SEEDS
        }

    def figure(title: str, caption: str, **columns: np.ndarray) -> Figure:
        sheet: Image.Image = contact_sheet({name.replace("_", " "): list(part) for name, part in columns.items()})
        return Figure(title, caption, sheet)

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
            "The style of hair, of skin (with nose, neck and ears), or of the lips comes from the source; mask, noise "
            "and the other styles stay.",
            source=images[other],
            face=images,
            reconstruction=found["model"],
            **swapped,
        ),
        "interpolation": figure(
            "Interpolation",
            "The codes of hair, skin, nose and neck move from the face's own to the source's.",
            face=images,
            **steps,
            source=images[other],
        ),
        "noise_only": figure(
            "Noise alone",
            "The mask, and no reference: the noise chooses every style.",
            mask=labels,
            **noise,
        ),
    }
