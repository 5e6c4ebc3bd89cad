"""The files of an evaluation, and what is wrong with them."""

from pathlib import Path

import pytest
from evaluations import FACES, scores, write

from scadm.evaluation.evaluated import Evaluated, evaluation_key


def test_the_model_s_scores_are_read_by_face(tmp_path: Path) -> None:
    found = Evaluated.read(write(tmp_path, 0.7))
    assert found.ssim == scores(0.7) and list(found.ssim) == list(FACES)
    assert found.test_split == "same"
    assert found.metrics["reconstruction"]["ceiling"]["ssim"] == 0.8


def test_an_evaluation_is_known_by_its_three_files(tmp_path: Path) -> None:
    key = evaluation_key(write(tmp_path / "a"))
    assert key == evaluation_key(write(tmp_path / "b"))
    for name in ("metrics.json", "evaluation.json", "faces.csv"):
        folder = write(tmp_path / name)
        (folder / name).write_text((folder / name).read_text() + "\n")
        assert evaluation_key(folder) != key


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metrics.json", None, "metrics.json does not exist"),
        ("metrics.json", "{", "metrics.json is not JSON"),
        ("evaluation.json", "[]", "evaluation.json holds list, expected a table"),
        ("faces.csv", "id,row,psnr\n1,model,2.0\n", r"faces.csv lacks the columns \['ssim'\]"),
        ("faces.csv", "id,row,ssim\n1,ceiling,0.5\n", "has no line of the row model"),
        ("faces.csv", "id,row,ssim\n1,model,0.5\n1,model,0.6\n", "line 3 of .*faces.csv has SSIM '0.6' for face '1'"),
        ("faces.csv", "id,row,ssim\n1,model,nan\n", "line 2 of .*faces.csv has SSIM 'nan'"),
        ("faces.csv", "id,row,ssim\n1,model\n", "line 2 of .*faces.csv has SSIM None"),
    ],
)
def test_what_is_wrong_is_one_message_with_the_remedy(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    write(tmp_path)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"(?s){said}.*Run `dvc repro evaluate`"):
        Evaluated.read(tmp_path)
