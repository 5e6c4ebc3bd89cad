from collections import Counter
from itertools import pairwise
from pathlib import Path

import archives
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scadm.config import SplitConfig
from scadm.data.archive import FaceArchive
from scadm.data.splits import assign

PAPER = SplitConfig(rule="paper", validation=0.1, test=0.1)
OFFICIAL = SplitConfig(rule="official", validation=0.1, test=0.1)
FRACTION = SplitConfig(rule="fraction", validation=0.08, test=0.12)
ALL = [f"{number:05d}" for number in range(30_000)]


def test_paper_keeps_the_last_500_training_ids_for_validation() -> None:
    splits = assign(ALL, PAPER, 0, {})
    assert list(splits) == ALL
    changes = [after for before, after in pairwise(ALL) if splits[before] != splits[after]]
    assert changes == ["27500", "28000"]
    assert Counter(splits.values()) == {"train": 27_500, "validation": 500, "test": 2_000}


def test_official_follows_celebas_partition() -> None:
    mapping = {"00000": 162_769, "00001": 162_770, "00002": 182_636, "00003": 182_637}
    assert list(assign(list(mapping), OFFICIAL, 0, mapping).values()) == [
        "train",
        "validation",
        "validation",
        "test",
    ]


def test_the_real_mapping_gives_the_published_counts(shared: Path, tmp_path: Path) -> None:
    text = (shared / "data" / "meta" / "CelebA-HQ-to-CelebA-mapping.txt").read_bytes()
    members = archives.official([0]) | {"CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt": text}
    archive = FaceArchive(archives.pack(tmp_path / "faces.zip", members))
    splits = assign(ALL, OFFICIAL, 0, archive.mapping())
    assert Counter(splits.values()) == {"train": 24_183, "validation": 2_993, "test": 2_824}


@given(ids=st.permutations([f"face-{number}" for number in range(50)]), seed=st.integers(0, 10**6))
def test_fraction_depends_on_seed_and_ids_but_not_on_their_order(ids: list[str], seed: int) -> None:
    splits = assign(ids, FRACTION, seed, {})
    assert list(splits) == ids
    assert splits == assign(sorted(ids), FRACTION, seed, {})
    assert Counter(splits.values()) == {"train": 40, "validation": 4, "test": 6}


def test_another_seed_gives_another_split() -> None:
    assert assign(ALL[:100], FRACTION, 0, {}) != assign(ALL[:100], FRACTION, 1, {})


def test_the_split_of_a_seed_is_fixed_for_ever() -> None:
    splits = assign(ALL[:30], FRACTION, 0, {})
    assert [id for id in splits if splits[id] == "test"] == ["00008", "00014", "00018", "00022"]
    assert [id for id in splits if splits[id] == "validation"] == ["00005", "00020"]


@pytest.mark.parametrize(
    ("config", "ids", "message"),
    [
        (PAPER, ["00001", "anna"], r"rule paper met 1 ids that are not numbers \(anna\).*rule fraction"),
        (OFFICIAL, ["00001", "anna"], "rule official met 1 ids"),
        (OFFICIAL, ["00001", "00002"], r"lacks 1 of 2 ids \(00002\)"),
        (
            PAPER,
            ALL[:720],
            "train 720, validation 0, test 0 of 720 .*validation and test .*use data.split.rule fraction",
        ),
        (FRACTION, ALL[:5], "train 4, validation 0, test 1 of 5 .*or give more faces"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(config: SplitConfig, ids: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(ids, config, 0, {"00001": 5})
