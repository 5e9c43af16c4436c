"""Images of any size become one size as torchvision's transforms do it, to the pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from nas_agg.common.errors import InputError
from nas_agg.training.augment import Augmentation, Augmenter, normalise
from nas_agg.training.data import load_data
from nas_agg.training.data.decoding import UnreadableImage, decode_bytes, decode_file
from nas_agg.training.data.images import centre_slices
from nas_agg.training.data.preprocessing import fit_array, fit_image, plan_preprocessing

SIZES = [(300, 200), (200, 301), (157, 157), (40, 33), (500, 61), (64, 64)]


def picture(width, height, mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height)).convert(mode)


@pytest.mark.parametrize(
    ("size", "share", "scaled"), [(32, None, 32), (224, None, 256), (128, 0.8, 160), (36, 0.75, 48)]
)
@pytest.mark.parametrize("shape", SIZES)
def test_evaluation_is_that_of_torchvision_to_the_pixel(shape, size, share, scaled):
    plan = plan_preprocessing((size, size), "crop", share)
    assert plan.stored == (scaled, scaled)
    image = picture(*shape)
    reference = v2.Compose([v2.Resize(scaled), v2.CenterCrop(size)])(image)
    kept = fit_image(image, plan)
    rows, columns = centre_slices(kept.shape[:2], plan.size)
    assert np.array_equal(kept[rows, columns], np.asarray(reference))


def test_a_folder_is_evaluated_as_torchvision_does(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "test" / label).mkdir(parents=True)
        for number, shape in enumerate(SIZES):
            picture(*shape, seed=number).save(tmp_path / "train" / label / f"{number}.jpg")
            picture(*shape, seed=number + 9).save(tmp_path / "test" / label / f"{number}.jpg")
    data = load_data(f"folder:{tmp_path}", image_size=128)
    assert data.input == (3, 128, 128) and data.test.pixels.shape[2:] == (148, 148)
    transform = v2.Compose([v2.Resize(148), v2.CenterCrop(128), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    normal = v2.Normalize(data.mean, data.std)
    images = normalise(data.test.images, data.mean, data.std)
    for number in range(len(SIZES)):
        with Image.open(tmp_path / "test" / "cat" / f"{number}.jpg") as image:
            torch.testing.assert_close(images[number], normal(transform(image)), rtol=0, atol=1e-5)


def test_squash_and_pad():
    image = picture(60, 30)
    squashed = fit_image(image, plan_preprocessing((20, 20), "squash"))
    assert np.array_equal(squashed, np.asarray(image.resize((20, 20), Image.Resampling.BILINEAR)))
    padded = fit_image(image, plan_preprocessing((20, 24), "pad"))
    assert padded.shape == (20, 24, 3) and not padded[:4].any() and not padded[16:].any()
    assert np.array_equal(padded[4:16], np.asarray(image.resize((24, 12), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
def test_arrays_of_any_number_of_channels_fit_as_images_do(resize):
    plan = plan_preprocessing((16, 12), resize)
    pixels = np.asarray(picture(50, 31)).transpose(2, 0, 1)
    many = np.concatenate([pixels, pixels[:2]])[None]
    fitted = fit_array(many, plan)[0]
    assert fitted.shape == (5, 16, 12) and np.array_equal(fitted[:2], fitted[3:])
    image = fit_image(Image.fromarray(pixels.transpose(1, 2, 0)), plan).transpose(2, 0, 1)
    assert np.abs(fitted[:3].astype(int) - image).max() <= 1
    deep = fit_array(many.astype(np.uint16) * 257, plan)[0]
    assert deep.dtype == np.uint16 and np.abs(deep / 257 - fitted).max() <= 1


def test_resized_crops_are_cut_from_all_of_the_scaled_image():
    image = torch.arange(32 * 32, dtype=torch.float32).view(1, 1, 32, 32).expand(600, 1, 32, 32) / 4
    augmenter = Augmenter(1, (28, 28), torch.device("cpu"), Augmentation(resized_crop=True), (0.0,), (1.0,), 0)
    assert augmenter.whole
    batch = augmenter.batch(image.to(torch.uint8)) * 255
    assert batch.shape == (600, 1, 28, 28)
    assert (batch[:, 0, 0, 0] < 2).any() and (batch[:, 0, -1, -1] > 253).any(), "corners outside the central part"


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_images_keep_their_bits(tmp_path, suffix):
    deep = np.random.default_rng(0).integers(0, 65536, (24, 8, 8), dtype=np.uint16)
    for number, pixels in enumerate(deep):
        place = tmp_path / "scans" / ("ill", "well")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:02}.{suffix}")
    data = load_data(f"folder:{tmp_path / 'scans'}", image_size=8)
    assert data.input == (1, 8, 8) and data.train.images.dtype == torch.float32
    images = torch.cat([split.images for split in data.splits.values()])[:, 0] * 257
    known = {pixels.tobytes() for pixels in deep}
    assert {image.round().numpy().astype(np.uint16).tobytes() for image in images} == known
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save(tmp_path / "scans" / "ill" / "24.png")
    bytes_too = load_data(f"folder:{tmp_path / 'scans'}", image_size=8)
    assert sum((split.images == 128).all((1, 2, 3)).sum() for split in bytes_too.splits.values()) == 1


def test_arrays_in_files_have_any_number_of_channels(tmp_path):
    draw = np.random.default_rng(0)
    for number in range(30):
        place = tmp_path / "bands" / ("field", "wood")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{number}.npy", draw.integers(0, 4000, (6, 9, 10), dtype=np.uint16))
    data = load_data(f"folder:{tmp_path / 'bands'}", image_size=8)
    assert data.input == (6, 8, 8) and float(data.train.images.max()) < 4000 / 257
    with pytest.raises(UnreadableImage, match="Python objects"):
        np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
        decode_file(str(tmp_path / "o.npy"), plan_preprocessing((8, 8)))


def test_rotated_photos_are_upright_and_large_ones_are_refused():
    import io

    image, buffer, plan = picture(10, 20), io.BytesIO(), plan_preprocessing((20, 10), "squash")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    pixels, _ = decode_bytes(buffer.getvalue(), ".png", plan)
    assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(image))
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    with pytest.raises(UnreadableImage, match="9000x9000 pixels, more than"):
        decode_bytes(buffer.getvalue(), ".png", plan)


def test_options_that_are_wrong():
    for words, options in (("did you mean 'squash'", {"resize": "sqash"}), ("crop_share 2", {"crop_share": 2.0})):
        with pytest.raises(InputError, match=words):
            load_data("digits", **options)
    with pytest.raises(InputError, match="such as 64x48"):
        load_data("digits", image_size="8x8x8")
    assert load_data("digits", image_size="8x6").input == (1, 8, 6)
