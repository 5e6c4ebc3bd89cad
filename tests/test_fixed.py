"""A face's image depends on the model, its id and a seed: on no batch and no order."""

from pathlib import Path

import numpy as np
import pytest
import tiny
from toy_faces import ToyFaces

from scadm.evaluation.fixed import EDIT, FIRST, face_seeds, in_chunks
from scadm.synthesis import CHUNK

IDS = [f"{i:05d}" for i in range(2 * CHUNK + 3)]


def test_seeds_are_of_the_id_the_draw_and_the_seed() -> None:
    seeds = face_seeds(IDS, 0, EDIT)
    assert len(set(seeds)) == len(IDS) and all(0 <= seed < 2**63 for seed in seeds)
    assert face_seeds(IDS[3:5], 0, EDIT) == seeds[3:5]
    assert not {*seeds} & {*face_seeds(IDS, 0, FIRST), *face_seeds(IDS, 1, EDIT)}


@pytest.mark.parametrize("count", [1, CHUNK, CHUNK + 1])
def test_chunks_are_always_full_and_lose_nothing(count: int) -> None:
    sizes = []

    def make(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(len(a))
        return a + b, a

    columns = np.arange(count), np.arange(count) * 10
    total, first = in_chunks(make, *columns)
    assert total.tolist() == [11 * i for i in range(count)] and first.tolist() == list(range(count))
    assert sizes == [CHUNK] * -(-count // CHUNK)
    assert in_chunks(lambda a: a * 2, columns[0]).tolist() == [2 * i for i in range(count)]


def test_a_picture_is_the_same_bit_for_bit_in_any_company(tmp_path: Path) -> None:
    model, faces = tiny.synthesiser(tmp_path), ToyFaces(CHUNK + 3, tiny.SIDE)
    seeds = np.array(face_seeds(IDS[: len(faces)], 0, EDIT))
    whole = in_chunks(model.reconstruct, faces.images, faces.labels, seeds)
    for some in ([4], [9, 2], [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]):
        alone = in_chunks(model.reconstruct, faces.images[some], faces.labels[some], seeds[some])
        np.testing.assert_array_equal(alone, whole[some])
