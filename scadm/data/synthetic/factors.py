"""What a synthetic face is made of: its factors, sampled by (seed, index) and by nothing else.

Factors form one flat dictionary with the same keys and types for every face, so that they are the columns of
a table. Every class has a colour, `<class>.r`, `<class>.g` and `<class>.b` in [0, 1]; a class that a face may
lack has `<class>.present`. A colour is sampled even where its part is absent: the columns have no holes, and
one part's presence never shifts the random numbers of the next.
"""

import colorsys
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from scadm.faces import LABELS

Factors: TypeAlias = dict[str, float | str | bool]
"""Factor name -> value, flat."""

Colour: TypeAlias = NDArray[np.float32]
"""RGB (3,), each in [0, 1]."""

TEXTURES: dict[str, dict[str, float]] = {
    "background": {"plain": 0.34, "gradient": 0.38, "blurred": 0.28},
    "hair": {"plain": 0.6, "stripes": 0.18, "waves": 0.22},
    "hat": {"plain": 0.4, "stripes": 0.24, "dots": 0.18, "waves": 0.18},
    "cloth": {"plain": 0.4, "stripes": 0.26, "dots": 0.2, "waves": 0.14},
}
"""Textures of each part that has one, and how often it has it. Such a part has the factors `<part>.texture`,
`.texture_strength` in [0, 1], `.texture_angle` in degrees and `.texture_frequency` in cycles across half a head. What
lies behind a face is out of focus: a wall lit from a side, or large shapes without an edge."""

HAIR_STYLES = ("crop", "short", "curly", "bob", "long")
FRINGES = ("none", "straight", "side")
HAT_STYLES = ("beanie", "brim")
EARRING_STYLES = ("stud", "drop", "hoop")
NECKLINES = ("round", "v", "high")
GLASSES_SHAPES = ("round", "square")

_SKIN = np.array(
    [
        [0.99, 0.87, 0.78],
        [0.96, 0.78, 0.65],
        [0.87, 0.67, 0.51],
        [0.73, 0.52, 0.37],
        [0.55, 0.37, 0.26],
        [0.40, 0.27, 0.20],
    ]
)
_HAIR = (
    (0.13, 0.11, 0.12),
    (0.27, 0.17, 0.12),
    (0.44, 0.28, 0.17),
    (0.64, 0.44, 0.24),
    (0.88, 0.72, 0.43),
    (0.66, 0.29, 0.15),
    (0.74, 0.73, 0.72),
)
_IRIS = (
    (0.36, 0.22, 0.12),
    (0.24, 0.15, 0.10),
    (0.48, 0.36, 0.16),
    (0.28, 0.48, 0.30),
    (0.22, 0.44, 0.68),
    (0.42, 0.52, 0.58),
)
_METAL = ((0.93, 0.76, 0.28), (0.80, 0.82, 0.86), (0.90, 0.60, 0.48), (0.96, 0.94, 0.88))


def sample_factors(seed: int, index: int) -> Factors:
    """Sample the factors of face `index` of the data set `seed`.

    Faces are independent: face `index` is the same however many others are drawn. Angles are in degrees,
    lengths in units of the head unless their name says otherwise.

    Raises ValueError if `seed` or `index` is negative.
    """
    if seed < 0 or index < 0:
        raise ValueError(
            f"seed {seed} and index {index} were given, expected both to be 0 or more: together they name a "
            "face. Count faces from 0 and choose a seed that is not negative."
        )
    rng = np.random.Generator(np.random.PCG64([seed, index]))
    factors: Factors = {}
    _sample_pose(rng, factors)
    _sample_head(rng, factors)
    _sample_hair(rng, factors)
    _sample_accessories(rng, factors)
    _sample_presence(rng, factors)
    for part, colour in _sample_colours(rng).items():
        for channel, value in zip("rgb", np.clip(colour, 0.02, 0.99), strict=True):
            factors[f"{part}.{channel}"] = float(value)
    for part in TEXTURES:
        _sample_texture(rng, factors, part)
    return factors


def number(factors: Factors, name: str) -> float:
    """The value of a numeric factor."""
    return float(factors[name])


def colour_of(factors: Factors, part: str) -> Colour:
    """The colour of a class, RGB (3,) in [0, 1]."""
    return np.array([factors[f"{part}.{channel}"] for channel in "rgb"], dtype=np.float32)


def present(factors: Factors, part: str) -> bool:
    """Whether a face has a part; parts without a `.present` factor are always there."""
    return bool(factors.get(f"{part}.present", True))


def _sample_pose(rng: np.random.Generator, factors: Factors) -> None:
    factors["pose.x"] = rng.uniform(-0.04, 0.04)
    factors["pose.y"] = rng.uniform(-0.03, 0.03)
    factors["pose.scale"] = rng.uniform(0.9, 1.05)
    factors["pose.tilt"] = float(np.clip(rng.normal(0, 4.5), -11, 11))
    factors["pose.turn"] = float(np.clip(rng.normal(0, 8), -18, 18))
    factors["light.angle"] = rng.uniform(-80, 80)
    factors["light.strength"] = rng.uniform(0.25, 1)


def _sample_head(rng: np.random.Generator, factors: Factors) -> None:
    factors["head.width"] = rng.uniform(0.9, 1.1)
    factors["head.height"] = rng.uniform(0.95, 1.05)
    factors["head.jaw"] = rng.uniform(0.7, 0.9)
    factors["head.chin"] = rng.uniform(0.26, 0.46)
    factors["eye.size"] = rng.uniform(0.88, 1.18)
    factors["eye.open"] = rng.uniform(0.7, 1.15)
    factors["eye.spacing"] = rng.uniform(0.42, 0.48)
    factors["eye.slant"] = rng.uniform(-8, 8)
    factors["eye.gaze"] = rng.uniform(-1, 1)
    factors["brow.thickness"] = rng.uniform(0.05, 0.1)
    factors["brow.arch"] = rng.uniform(0.0, 0.08)
    factors["brow.height"] = rng.uniform(0.19, 0.25)
    factors["nose.width"] = rng.uniform(0.16, 0.25)
    factors["nose.length"] = rng.uniform(0.40, 0.52)
    factors["mouth.width"] = rng.uniform(0.3, 0.44)
    factors["mouth.smile"] = rng.uniform(0.03, 0.12)
    factors["mouth.open"] = rng.uniform(0.06, 0.15)
    factors["lip.thickness"] = rng.uniform(0.05, 0.085)
    factors["ear.size"] = rng.uniform(0.85, 1.2)


def _sample_hair(rng: np.random.Generator, factors: Factors) -> None:
    factors["hair.style"] = _choose(rng, HAIR_STYLES, (0.14, 0.28, 0.12, 0.2, 0.26))
    factors["hair.fringe"] = _choose(rng, FRINGES, (0.36, 0.26, 0.38))
    factors["hair.parting"] = float(rng.choice([-1, 1]) * rng.uniform(0.05, 0.5))
    factors["hair.volume"] = rng.uniform(0, 1)
    factors["hair.length"] = rng.uniform(0, 1)
    factors["hair.tucked"] = bool(rng.random() < 0.4)


def _sample_accessories(rng: np.random.Generator, factors: Factors) -> None:
    factors["eye_g.shape"] = _choose(rng, GLASSES_SHAPES, (0.5, 0.5))
    factors["eye_g.dark"] = bool(rng.random() < 0.3)
    factors["hat.style"] = _choose(rng, HAT_STYLES, (0.55, 0.45))
    factors["ear_r.style"] = _choose(rng, EARRING_STYLES, (0.3, 0.4, 0.3))
    factors["ear_r.size"] = rng.uniform(0.85, 1.25)
    factors["neck_l.drop"] = rng.uniform(0, 1)
    factors["cloth.neckline"] = _choose(rng, NECKLINES, (0.4, 0.35, 0.25))


def _sample_presence(rng: np.random.Generator, factors: Factors) -> None:
    chances = {"hair": 0.96, "eye_g": 0.1, "hat": 0.08, "ear_r": 0.2, "neck_l": 0.1, "mouth": 0.4}
    chances |= {"neck": 0.98, "cloth": 0.96}
    for part, chance in chances.items():
        factors[f"{part}.present"] = bool(rng.random() < chance)
    eyes_seen = not (factors["eye_g.present"] and factors["eye_g.dark"])
    for side in ("l", "r"):
        factors[f"{side}_eye.present"] = eyes_seen
        factors[f"{side}_ear.present"] = _ear_shows(factors, 1 if side == "l" else -1)


def _ear_shows(factors: Factors, side: int) -> bool:
    """Hair hides both ears, and a turn of the head hides the one it turns towards."""
    loose = factors["hair.style"] == "curly" or (
        factors["hair.style"] in ("bob", "long") and not factors["hair.tucked"]
    )
    if loose and factors["hair.present"]:
        return False
    return side * number(factors, "pose.turn") < 12


def _sample_colours(rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """One colour a class, RGB in about [0, 1] (the caller clips)."""
    tone = rng.uniform(0, len(_SKIN) - 1)
    skin = np.array([np.interp(tone, np.arange(len(_SKIN)), channel) for channel in _SKIN.T])
    skin = skin + rng.normal(0, 0.012, 3)
    red = np.array([0.05, -0.03, -0.03])
    hair = _vivid(rng) if rng.random() < 0.16 else _pick(rng, _HAIR) + rng.normal(0, 0.025, 3)
    iris = _pick(rng, _IRIS) + rng.normal(0, 0.03, 3)
    # A few people's eyes differ, so that a model cannot learn that they never do.
    other = _pick(rng, _IRIS) if rng.random() < 0.06 else iris
    lips = _lip_colour(rng, skin)
    colours = {
        "background": _vivid(rng, saturation=(0.05, 0.5), value=(0.35, 0.95)),
        "skin": skin,
        "nose": skin + 0.6 * red + rng.normal(0, 0.008, 3),
        "eye_g": _vivid(rng, saturation=(0.2, 0.9), value=(0.1, 0.7)),
        "l_eye": iris,
        "r_eye": other,
        "l_brow": 0.72 * hair,
        "r_brow": 0.72 * hair,
        "l_ear": skin + red + rng.normal(0, 0.01, 3),
        "r_ear": skin + red + rng.normal(0, 0.01, 3),
        "mouth": np.array([0.48, 0.12, 0.14]) + rng.normal(0, 0.04, 3),
        "u_lip": lips * rng.uniform(0.86, 0.96),
        "l_lip": lips,
        "hair": hair,
        "hat": _vivid(rng),
        "ear_r": _jewel(rng),
        "neck_l": _jewel(rng),
        "neck": skin * rng.uniform(0.9, 0.98),
        "cloth": _vivid(rng),
    }
    return {part: colours[part] for part in LABELS}


def _sample_texture(rng: np.random.Generator, factors: Factors, part: str) -> None:
    names, chances = zip(*TEXTURES[part].items(), strict=True)
    factors[f"{part}.texture"] = _choose(rng, names, chances)
    factors[f"{part}.texture_strength"] = rng.uniform(0.3, 1)
    factors[f"{part}.texture_angle"] = rng.uniform(0, 180)
    # Beyond 0.6 cycles a background would no longer be out of focus.
    factors[f"{part}.texture_frequency"] = rng.uniform(0.2, 0.6) if part == "background" else rng.uniform(1.6, 3.4)


def _lip_colour(rng: np.random.Generator, skin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between the skin and a rouge, nearer the rouge for those who wear lipstick."""
    rouge = np.array(colorsys.hsv_to_rgb(rng.uniform(0.92, 1.03) % 1, 0.72, rng.uniform(0.55, 0.9)))
    share = rng.uniform(0.75, 0.95) if rng.random() < 0.4 else rng.uniform(0.35, 0.55)
    return (1 - share) * skin + share * rouge


def _jewel(rng: np.random.Generator) -> NDArray[np.float64]:
    return _vivid(rng, saturation=(0.5, 0.9)) if rng.random() < 0.35 else _pick(rng, _METAL)


def _vivid(
    rng: np.random.Generator,
    saturation: tuple[float, float] = (0.35, 0.85),
    value: tuple[float, float] = (0.4, 0.95),
) -> NDArray[np.float64]:
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))


def _pick(rng: np.random.Generator, colours: tuple[tuple[float, float, float], ...]) -> NDArray[np.float64]:
    return np.array(colours[int(rng.integers(len(colours)))])


def _choose(rng: np.random.Generator, names: tuple[str, ...], chances: tuple[float, ...]) -> str:
    return names[int(rng.choice(len(names), p=chances))]
