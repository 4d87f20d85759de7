"""Images: order, augmentation, and data that are missing or wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ddl_model.checkpoint import make_model
from ddl_model.training import fashion_mnist
from ddl_model.training.config import ImageDataConfig, TrainConfig
from ddl_model.training.engine import Engine, Placement
from ddl_model.training.errors import DataError
from ddl_model.training.image_data import ImageSet, augment, epoch_order, erase
from tests.ddl_model.training.conftest import image_task
from tests.model_fixtures import SMALL_SHA256

Data = tuple[ImageSet, ImageSet]


def test_every_epoch_visits_every_image_once_in_its_own_order() -> None:
    first, second = epoch_order(50, seed=1, epoch=0), epoch_order(50, seed=1, epoch=1)
    assert sorted(first.tolist()) == list(range(50)) == sorted(second.tolist())
    assert not torch.equal(first, second)
    assert torch.equal(first, epoch_order(50, seed=1, epoch=0))


@pytest.mark.parametrize("mirror", [True, False])
def test_augmentation_mirrors_and_moves_by_whole_pixels(mirror: bool) -> None:
    image = torch.zeros(9, 9, dtype=torch.uint8)
    image[4, 3], image[4, 4] = 200, 100
    batch = augment(image.expand(400, 9, 9), shift_pixels=2, seed=0, step=0, mirror=mirror)
    brightest = {divmod(int(picture.argmax()), 9) for picture in batch}
    rows, columns = {place[0] for place in brightest}, {place[1] for place in brightest}
    assert rows == {2, 3, 4, 5, 6}
    assert columns == ({1, 2, 3, 4, 5, 6, 7} if mirror else {1, 2, 3, 4, 5})  # 3 or, mirrored, 5, moved by up to 2
    assert bool((batch.flatten(1).sum(-1, dtype=torch.int64) == 300).all())
    again, other = (augment(image.expand(400, 9, 9), 2, seed=0, step=step, mirror=mirror) for step in (0, 1))
    assert torch.equal(batch, again)
    assert not torch.equal(batch, other)


def test_erasing_blackens_one_square_of_each_image() -> None:
    batch = erase(torch.full((400, 9, 7), 255, dtype=torch.uint8), side=3, seed=0, step=0)
    black = (batch == 0).flatten(1).sum(-1)
    assert int(black.max()) == 9
    assert int(black.min()) == 4  # a corner: the square's middle is inside
    centres = {tuple(torch.nonzero(picture == 0).float().mean(0).tolist()) for picture in batch}
    assert len(centres) == 9 * 7
    assert torch.equal(batch, erase(torch.full((400, 9, 7), 255, dtype=torch.uint8), side=3, seed=0, step=0))


def test_a_task_augments_as_its_configuration_says(small_recipe: TrainConfig, small_data: Data) -> None:
    rows = torch.arange(50)

    def images(**changes: int) -> torch.Tensor:
        data = replace(ImageDataConfig(mirror=False, shift_pixels=0, validation_images=100), **changes)  # type: ignore[arg-type]
        return image_task(replace(small_recipe, data=data), small_data).batch(rows, 0, 3)[0]

    plain = small_data[0].images[rows]
    assert torch.equal(images(), plain)
    assert torch.equal(images(shift_pixels=2), augment(plain, 2, 0, 3, mirror=False))
    assert torch.equal(images(erase_pixels=5), erase(plain, 5, 0, 3))


def test_observed_gates_are_those_of_the_model(small_recipe: TrainConfig, small_data: Data) -> None:
    engine = Engine(Placement(accelerator="cpu"), "32-true")
    torch.manual_seed(0)
    engine.set_up(make_model(small_recipe.model), small_recipe.optimizer)
    gates = engine.observe(image_task(small_recipe, small_data))
    assert list(gates) == ["0.attn", "0.mlp", "1.attn", "1.mlp"]
    assert all(gate.shape == (100, 49) for gate in gates.values())
    assert all(float(gate.mean()) == pytest.approx(1.0, abs=0.1) for gate in gates.values())


def test_missing_data_names_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist.load(tmp_path)


def test_data_that_is_not_the_original_is_refused(small_data_folder: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is not the original file: SHA-256 c452"):
        fashion_mnist.load(small_data_folder)


def test_damaged_data_is_refused(small_data_folder: Path, tmp_path: Path) -> None:
    name = "train-images-idx3-ubyte"
    (tmp_path / f"{name}.gz").write_bytes((small_data_folder / f"{name}.gz").read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        fashion_mnist.load(tmp_path, SMALL_SHA256)


def test_holding_out_everything_is_refused(small_recipe: TrainConfig, small_data: Data) -> None:
    data = ImageDataConfig(validation_images=640)
    with pytest.raises(DataError, match="cannot hold out 640 of 640 images"):
        image_task(replace(small_recipe, data=data), small_data)
