"""The networks of metrics: saved, loaded, and refused where their weights are not what they should be."""

import sys
from pathlib import Path

import numpy as np
import pytest
import random_networks
import torch
from torch import Tensor

from scadm.evaluation.networks import Inception, Networks, Perceptual, load_networks, save_networks
from scadm.pixels import Images

for package in ("torchvision", "torch_fidelity"):
    pytest.importorskip(package, reason=f"needs {package} (pip install '.[metrics]')", exc_type=ImportError)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pt"
    torch.save(random_networks.alexnet(), path)
    return path


@pytest.fixture(scope="module")
def lpips(weights: Path) -> Perceptual:
    return Perceptual(weights)


def noise(count: int, side: int = 40, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def changed(path: Path, changes: dict[str, Tensor | None]) -> Path:
    """A file with other tensors under some names, or (None) without them."""
    state = random_networks.alexnet() | changes
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    return path


# --- LPIPS ----------------------------------------------------------------------------------------------


def test_equal_images_are_at_distance_0_and_others_further_the_more_they_differ(lpips: Perceptual) -> None:
    images = noise(3)
    assert lpips.name == "lpips_alex"
    assert np.array_equal(lpips.distance(images, images), np.zeros(3))
    little, much = images.copy(), images.copy()
    little[:, :10], much[:, :30] = 255, 255
    near, far = lpips.distance(images, little), lpips.distance(images, much)
    assert near.shape == (3,) and near.dtype == np.float64
    assert (near > 0).all() and (far > near).all()
    np.testing.assert_allclose(lpips.distance(little, images), near, rtol=1e-6)


def test_each_pair_is_by_itself(lpips: Perceptual) -> None:
    images, others = noise(5), noise(5, seed=1)
    single = [lpips.distance(images[i : i + 1], others[i : i + 1]) for i in range(5)]
    np.testing.assert_allclose(lpips.distance(images, others), np.concatenate(single), rtol=1e-6)
    assert len(lpips.distance(images[:0], others[:0])) == 0


def test_it_computes_in_float32_whatever_is_asked_around_it(lpips: Perceptual) -> None:
    images, others = noise(2), noise(2, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = lpips.distance(images, others)
    assert np.array_equal(inside, lpips.distance(images, others))


def test_random_numbers_are_left_alone(weights: Path) -> None:
    before = torch.get_rng_state()
    Perceptual(weights)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_of_other_sizes_are_refused(lpips: Perceptual) -> None:
    with pytest.raises(ValueError, match=r"\(2, 40, 40, 3\) against \(2, 48, 48, 3\), expected equal shapes"):
        lpips.distance(noise(2), noise(2, 48))
    least = lpips.least_side
    assert np.isfinite(lpips.distance(noise(1, least), noise(1, least, seed=1))).all()
    small = noise(1, least - 1)
    with pytest.raises(ValueError, match=r"images of 30 x 30 pixels, expected at least 31.*Raise project\.resolution"):
        lpips.distance(small, small)
    with pytest.raises(RuntimeError, match="Output size is too small"):  # so the least side is not too large
        lpips.network(torch.zeros(1, 3, least - 1, least - 1), torch.zeros(1, 3, least - 1, least - 1))


def test_a_classifier_is_ignored_and_half_precision_read(lpips: Perceptual, tmp_path: Path) -> None:
    halves = {key: value.half() for key, value in random_networks.alexnet().items() if "features" in key}
    with_more = Perceptual(changed(tmp_path / "a.pt", {"classifier.6.weight": torch.zeros(10, 4)} | halves))
    images, others = noise(2), noise(2, seed=1)
    np.testing.assert_allclose(with_more.distance(images, others), lpips.distance(images, others), rtol=1e-2)
    assert all(value.dtype == torch.float32 for value in with_more.network.state_dict().values())


def test_without_linear_layers_the_published_ones_are_taken(lpips: Perceptual, tmp_path: Path) -> None:
    bare = Perceptual(changed(tmp_path / "a.pt", {f"lin{k}.weight": None for k in range(5)}))
    images, others = noise(2), noise(2, seed=1)
    found = bare.distance(images, others)
    assert (found > 0).all() and not np.allclose(found, lpips.distance(images, others), rtol=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features.12.weight": torch.zeros(3)}, r"features\.12\.weight is \(3,\), expected none"),
        ({"lin5.weight": torch.zeros(1, 64, 1, 1)}, r"lin5\.weight is \(1, 64, 1, 1\), expected none"),
        ({"lin2.weight": None}, r"lin2\.weight is missing, expected \(1, 384, 1, 1\)"),
        ({"features.3.bias": torch.zeros(191)}, r"features\.3\.bias is \(191,\), expected \(192,\)"),
        ({"features.0.weight": torch.zeros(8, 3, 3, 3)}, "which neither AlexNet nor VGG-16 has"),
        ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, r"features\.10\.weight is .*, expected \(256, 128, 3, 3\)"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, changes: dict[str, Tensor | None], message: str) -> None:
    with pytest.raises(ValueError, match=rf"does not hold the weights of metrics\.lpips: .*{message}.* to null\."):
        Perceptual(changed(tmp_path / "a.pt", changes))


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run by unpickling",)


@pytest.mark.parametrize("network", [Perceptual, Inception])
def test_files_of_something_else_are_refused(
    network: type[Perceptual] | type[Inception], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"where there is no file, .*Put the weights there"):
        network(tmp_path / "none.pt")
    (tmp_path / "page.pt").write_text("<html>")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"features.0.weight": Harmful()}, tmp_path / "harmful.pt")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pt")
    for name in ("page.pt", "list.pt", "harmful.pt", "other.pt"):
        with pytest.raises(ValueError, match=rf"{name} does not hold the weights of metrics\."):
            network(tmp_path / name)
    assert "run by unpickling" not in capsys.readouterr().out


# --- beside the parser ----------------------------------------------------------------------------------


def test_without_networks_there_are_none(tmp_path: Path) -> None:
    save_networks(tmp_path, None, None)
    assert not list(tmp_path.iterdir())
    assert load_networks(tmp_path) == Networks(None, None)


def test_they_survive_a_round_trip(weights: Path, lpips: Perceptual, tmp_path: Path) -> None:
    save_networks(tmp_path, weights, None)
    assert sorted(path.name for path in (tmp_path / "networks").iterdir()) == ["config.json", "lpips.pt"]
    found = load_networks(tmp_path)
    assert found.inception is None and found.lpips is not None and found.lpips.name == "lpips_alex"
    images, others = noise(2), noise(2, seed=1)
    assert np.array_equal(found.lpips.distance(images, others), lpips.distance(images, others))

    changed(tmp_path / "networks" / "lpips.pt", {"lin0.weight": torch.zeros(1, 64, 1, 1)})
    with pytest.raises(ValueError, match=r"the sha256 of .*lpips\.pt is [0-9a-f]{64}, expected"):
        load_networks(tmp_path)
    (tmp_path / "networks" / "lpips.pt").unlink()
    with pytest.raises(ValueError, match=r"lpips\.pt is missing"):
        load_networks(tmp_path)


def test_what_is_not_a_network_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"features\.12\.weight"):
        save_networks(tmp_path, changed(tmp_path / "a.pt", {"features.12.weight": torch.zeros(3)}), None)
    assert not (tmp_path / "networks").exists()


@pytest.mark.parametrize(("package", "network"), [("torchvision", Perceptual), ("torch_fidelity", Inception)])
def test_a_missing_package_names_the_extra(
    package: str, network: type[Perceptual] | type[Inception], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"needed.*pip install -c constraints\.txt -e '\.\[metrics\]'.*to null"):
        network(weights)


# --- Inception ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_inception_through_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the genuine ones are can its numbers be compared; here its form, and that nothing is fetched."""
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("it fetches weights"))
    random_networks.save_inception(tmp_path / "weights.pth")
    before = torch.get_rng_state()
    inception = Inception(tmp_path / "weights.pth")
    assert torch.equal(torch.get_rng_state(), before)
    images = noise(3, 64)
    features = inception.features(images)
    assert features.shape == (3, 2048) and features.dtype == np.float32
    assert (features >= 0).all() and features.std(axis=0).max() > 0, "behind a ReLU, and not the same for all images"
    assert np.array_equal(features, inception.features(images))
    single = np.concatenate([inception.features(images[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(features, single, rtol=1e-4, atol=1e-5)

    folder = tmp_path / "parser"
    folder.mkdir()
    save_networks(folder, None, tmp_path / "weights.pth")
    found = load_networks(folder)
    assert found.lpips is None and found.inception is not None and found.inception.name == "inception"
    assert np.array_equal(found.inception.features(images), features)
