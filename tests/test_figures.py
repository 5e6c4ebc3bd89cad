"""Contact sheets."""

import numpy as np
import pytest
from toy_faces import ToyFaces

from scadm.evaluation.figures import contact_sheet
from scadm.faces import colourise


def test_every_picture_is_there_enlarged_by_whole_pixels() -> None:
    source = ToyFaces(3)
    sheet = np.asarray(contact_sheet({"mask": source.labels, "truth": list(source.images)}, least_side=64))
    tiles = [colourise(source.labels[i]) for i in range(3)] + list(source.images)
    for tile in tiles:
        enlarged = tile.repeat(2, axis=0).repeat(2, axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(sheet, enlarged.shape)
        corners = np.argwhere((windows[:, :, 0, 0, 0] == enlarged[0, 0]).all(axis=-1))
        assert any(np.array_equal(windows[y, x, 0], enlarged) for y, x in corners)


def test_large_pictures_keep_their_size_and_titles_widen_the_sheet() -> None:
    picture = np.zeros((1, 200, 200, 3), dtype=np.uint8)
    plain = contact_sheet({"a": picture})
    assert 200 < plain.width < 230
    assert contact_sheet({"a": picture}, row_titles=["hair from another face"]).width > plain.width + 100
    assert contact_sheet({"a title much longer than its column is wide": picture}).width > plain.width


def test_columns_that_do_not_match_are_refused() -> None:
    source = ToyFaces(3)
    with pytest.raises(ValueError, match="equally many of one size"):
        contact_sheet({"mask": source.labels, "truth": source.images[:2]})
    with pytest.raises(ValueError, match="equally many of one size"):
        contact_sheet({"mask": source.labels, "truth": ToyFaces(3, side=16).images})
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet({"mask": source.labels[:0]})
    with pytest.raises(ValueError, match="1 row titles for 3 rows"):
        contact_sheet({"mask": source.labels}, row_titles=["hair"])
