"""Faces of a few coloured rectangles, quick to make and to learn."""

from collections.abc import Sequence

import numpy as np

from scadm.faces import CLASS_ID
from scadm.pixels import Images, Labels

# Part, and its box as top, bottom, left, right in sixteenths of the picture. The two eyes look alike.
_PARTS = (
    ("hair", 1, 8, 3, 13),
    ("skin", 3, 13, 4, 12),
    ("l_eye", 6, 8, 5, 7),
    ("r_eye", 6, 8, 9, 11),
    ("mouth", 10, 12, 6, 10),
    ("cloth", 13, 16, 2, 14),
)


class ToyFaces:
    """`count` faces of `side` pixels in memory, a FaceSource and an ImageSource."""

    def __init__(self, count: int, side: int = 32, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.labels = np.zeros((count, side, side), dtype=np.uint8)
        base = {name: rng.integers(40, 216, 3) for name, *_ in _PARTS} | {"background": rng.integers(40, 216, 3)}
        base["r_eye"] = base["l_eye"]
        self.images = np.empty((count, side, side, 3), dtype=np.uint8)
        for image, label in zip(self.images, self.labels, strict=True):
            shift = int(rng.integers(-side // 16, side // 16 + 1))
            image[:] = base["background"]
            for name, *box in _PARTS:
                top, bottom, left, right = (edge * side // 16 for edge in box)
                where = np.s_[top:bottom, left + shift : right + shift]
                image[where] = base[name] + rng.integers(-20, 21, 3)
                label[where] = CLASS_ID[name]
            image += rng.integers(0, 12, image.shape, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Sequence[int]) -> tuple[Images, Labels]:
        chosen = list(indices)
        return self.images[chosen], self.labels[chosen]

    def image_batch(self, indices: Sequence[int]) -> Images:
        return self.batch(indices)[0]
