"""Which face is trained on, validated with, and tested on: a pure function of ids, rule and seed."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from scadm.config import SplitConfig
from scadm.data.ids import some
from scadm.files.manifest import SPLITS, Split

_PAPER_TEST, _PAPER_VALIDATION = 28_000, 27_500
"""The paper tests on ids from 28000; the last 500 of its training ids are kept for validation."""

_CELEBA_TEST, _CELEBA_VALIDATION = 182_637, 162_770
"""CelebA's own partition, by the original index."""


def assign(ids: Sequence[str], config: SplitConfig, seed: int, mapping: Mapping[str, int]) -> dict[str, Split]:
    """The split of each id, in the order of `ids`.

    `mapping` gives CelebA's original index of each id, for rule `official` only. Rule `fraction` ranks the
    ids by a hash of the seed and the id: it does not depend on their order.

    Raises ValueError if the rule does not apply to these ids, or leaves a split empty.
    """
    if config.rule == "paper":
        splits = _by_bounds(_numbers(ids, config.rule), _PAPER_VALIDATION, _PAPER_TEST)
    elif config.rule == "official":
        _numbers(ids, config.rule)
        if unknown := [id for id in ids if id not in mapping]:
            raise ValueError(
                f"the mapping to CelebA lacks {len(unknown)} of {len(ids)} ids ({some(unknown)}), expected "
                "all. Their place in CelebA's partition is unknown: use the official archive, or "
                "data.split.rule fraction."
            )
        splits = _by_bounds({id: mapping[id] for id in ids}, _CELEBA_VALIDATION, _CELEBA_TEST)
    else:
        splits = _by_fraction(ids, config, seed)
    _require_all(splits, config)
    return splits


def _by_bounds(numbers: Mapping[str, int], validation: int, test: int) -> dict[str, Split]:
    return {
        id: "train" if number < validation else "validation" if number < test else "test"
        for id, number in numbers.items()
    }


def _by_fraction(ids: Sequence[str], config: SplitConfig, seed: int) -> dict[str, Split]:
    ranked = sorted(ids, key=lambda id: hashlib.sha256(f"{seed}:{id}".encode()).digest())
    test = round(len(ids) * config.test)
    validation = round(len(ids) * config.validation)
    held_out: dict[str, Split] = dict.fromkeys(ranked[:test], "test")
    held_out |= dict.fromkeys(ranked[test : test + validation], "validation")
    return {id: held_out.get(id, "train") for id in ids}


def _numbers(ids: Sequence[str], rule: str) -> dict[str, int]:
    if named := [id for id in ids if not (id.isascii() and id.isdecimal())]:
        raise ValueError(
            f"data.split.rule {rule} met {len(named)} ids that are not numbers ({some(named)}), expected the "
            "numbers of CelebAMask-HQ. They have no place in its partition: use rule fraction for other "
            "faces."
        )
    return {id: int(id) for id in ids}


def _require_all(splits: Mapping[str, Split], config: SplitConfig) -> None:
    counts = Counter(splits.values())
    if empty := [split for split in SPLITS if not counts[split]]:
        found = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
        remedy = (
            "raise the shares data.split.validation and data.split.test, or give more faces"
            if config.rule == "fraction"
            else "use data.split.rule fraction for an archive that is not the whole of CelebAMask-HQ"
        )
        raise ValueError(
            f"data.split.rule {config.rule} gives {found} of {len(splits)} faces, expected some in every "
            f"split. Without {' and '.join(empty)} the model cannot be trained and judged: {remedy}."
        )
