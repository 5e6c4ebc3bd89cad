"""Rules that a label map should obey."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from scadm.faces import CLASS_ID, mirror_labels
from scadm.inspection.suspects import RULES, Sides, broken_rules, exchanged, sides, usual_sides

SIDE = 64


def face() -> NDArray[np.uint8]:
    """A plain face: skin in the middle, under hair, with everything where it belongs."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for name, rows, columns in (
        ("hair", (4, 60), (12, 52)),
        ("skin", (12, 60), (16, 48)),
        ("l_brow", (20, 22), (20, 28)),
        ("r_brow", (20, 22), (36, 44)),
        ("l_eye", (24, 28), (21, 27)),
        ("r_eye", (24, 28), (37, 43)),
        ("nose", (28, 40), (30, 34)),
        ("u_lip", (46, 48), (26, 38)),
        ("l_lip", (48, 51), (26, 38)),
    ):
        labels[slice(*rows), slice(*columns)] = CLASS_ID[name]
    return labels


def paint(name: str, rows: tuple[int, int], columns: tuple[int, int]) -> Callable[[NDArray[np.uint8]], None]:
    def change(labels: NDArray[np.uint8]) -> None:
        labels[slice(*rows), slice(*columns)] = CLASS_ID[name]

    return change


def swap(first: str, second: str) -> Callable[[NDArray[np.uint8]], None]:
    def change(labels: NDArray[np.uint8]) -> None:
        a, b = labels == CLASS_ID[first], labels == CLASS_ID[second]
        labels[a], labels[b] = CLASS_ID[second], CLASS_ID[first]

    return change


def only_hair(labels: NDArray[np.uint8]) -> None:
    labels[labels != 0] = CLASS_ID["hair"]


def move_eye(labels: NDArray[np.uint8]) -> None:
    labels[labels == CLASS_ID["l_eye"]] = CLASS_ID["skin"]
    labels[2:6, 2:8] = CLASS_ID["l_eye"]


def move_mouth(labels: NDArray[np.uint8]) -> None:
    for name in ("u_lip", "l_lip"):
        labels[labels == CLASS_ID[name]] = CLASS_ID["skin"]
    labels[2:6, 2:8] = CLASS_ID["u_lip"]


def test_a_plain_face_breaks_no_rule() -> None:
    assert broken_rules(face()) == []
    assert broken_rules(mirror_labels(face())) == []


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (paint("skin", (0, 3), (0, 60)), []),
        (paint("cloth", (26, 46), (0, 64)), ["scattered_skin"]),
        (only_hair, ["no_skin", "few_classes"]),
        (move_eye, ["eye_outside"]),
        (move_mouth, ["mouth_outside"]),
        (swap("u_lip", "l_lip"), ["lips_exchanged"]),
        (paint("eye_g", (22, 30), (18, 46)), []),
    ],
)
def test_a_broken_rule_is_named(change: Callable[[NDArray[np.uint8]], None], rules: list[str]) -> None:
    labels = face()
    change(labels)
    assert broken_rules(labels) == rules
    assert set(rules) <= RULES.keys()


def test_exchanged_sides_are_seen_against_most_faces() -> None:
    right, wrong = face(), face()
    swap("l_eye", "r_eye")(wrong)
    assert sides(right) == Sides(eye=-1, brow=-1, ear=0)
    usual = usual_sides([sides(right)] * 5 + [sides(wrong)])
    assert usual == Sides(-1, -1, 0)
    assert exchanged(sides(wrong), usual) and not exchanged(sides(right), usual)
    assert not exchanged(Sides(0, 0, 0), usual), "what is not shown is not exchanged"


def test_a_mirrored_face_has_its_sides_as_before() -> None:
    assert sides(mirror_labels(face())) == sides(face())
    assert sides(face()[:, ::-1]) == Sides(1, 1, 0), "the control: mirrored without exchanging left and right"
