"""Batched augmentation against single-image references."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from nas_agg.common.errors import InputError
from nas_agg.training.augment import Augmentation, Augmenter, jitter_color, lighting_shift, normalise, resize_windows
from nas_agg.training.autoaugment import OPERATIONS, apply, autoaugment, policy, wide_range
from nas_agg.training.draws import ImageDraws

torch.set_num_threads(1)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def images():
    return torch.randint(1, 256, (50, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def one(image):
    """An image normalised by hand."""
    return torch.stack([(image[c] / 255 - MEAN[c]) / STD[c] for c in range(3)])


def back(image):
    """The bytes of a normalised image."""
    return torch.stack([(image[c] * STD[c] + MEAN[c]) * 255 for c in range(3)]).round().to(torch.uint8)


def augmenter(images, seed=0, **settings):
    return Augmenter(images.shape[1], images.shape[2:], images.device, Augmentation(**settings), MEAN, STD, seed)


def test_without_augmentation_the_chosen_images_come_out_normalised(images):
    index = torch.tensor([4, 0, 49, 4])
    batch = augmenter(images).batch(images[index])
    assert batch.is_contiguous(memory_format=torch.channels_last) and batch.dtype == torch.float32
    torch.testing.assert_close(batch, torch.stack([one(images[i]) for i in index]))
    torch.testing.assert_close(normalise(images[index], MEAN, STD), batch)


def test_crop_and_flip_give_windows_of_the_padded_image_each_as_often(images):
    index = torch.arange(50).repeat(40)
    batch = augmenter(images, crop=1, flip=True).batch(images[index])
    result = dict.fromkeys(((y, x, f) for y in range(3) for x in range(3) for f in range(2)), 0)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    for number, image in zip(index.tolist(), batch, strict=True):
        hits = []
        pixels = back(image)
        for y, x, flip in result:
            window = padded[number, :, y : y + 6, x : x + 5]
            if torch.equal(pixels, window.flip(2) if flip else window):
                hits.append((y, x, flip))
        assert len(hits) == 1
        result[hits[0]] += 1
    assert min(result.values()) > 0.6 * 2000 / 18 and max(result.values()) < 1.4 * 2000 / 18


def test_windows_are_scaled_as_torchvision_does(images):
    windows = torch.tensor([[0, 0, 6, 5], [1, 2, 3, 2], [5, 4, 1, 1], [0, 3, 6, 2], [2, 0, 4, 5]])
    got = resize_windows(images[:5], *windows.T.float(), size=(6, 5))
    for image, result, window in zip(images, got, windows.tolist(), strict=False):
        assert (result.int() - v2.functional.resized_crop(image, *window, [6, 5]).int()).abs().max() <= 1
        exact = v2.functional.resized_crop(image.double(), *window, [6, 5], antialias=False)
        assert (result - exact).abs().max() <= 0.5 + 1e-3
    assert torch.equal(got[0], images[0])


def test_windows_are_drawn_as_torchvision_does():
    torch.manual_seed(0)
    image = torch.zeros(1, 40, 30, dtype=torch.uint8)
    created = augmenter(image.expand(2, 3, 40, 30), resized_crop=True)
    got = torch.stack(created._crop_windows(ImageDraws(created.generator, 20_000), (40, 30))).T
    draw = v2.RandomResizedCrop(8).make_params
    want = torch.tensor([[*(draw([image])[key] for key in ("top", "left", "height", "width"))] for _ in range(5000)])
    top, left, height, width = got.T
    assert (got == got.floor()).all() and got.min() >= 0 and height.min() >= 1 and width.min() >= 1
    assert (top + height).max() == 40 and (left + width).max() == 30
    for index in range(4):
        mine, theirs = got[:, index], want[:, index].float()
        assert mine.mean() == pytest.approx(theirs.mean().item(), abs=0.3)
        for share in (0.1, 0.5, 0.9):
            assert abs(mine.quantile(share) - theirs.quantile(share)) <= 1
    share, aspect = (height * width) / 1200, (width / height).log()
    assert 0.07 < share.min() < 0.1 and share.max() > 0.95 and aspect.abs().max() < 0.4


def test_resized_crops_are_batches_of_the_images_size(images):
    index = torch.arange(50)
    created, same = (augmenter(images, 1, resized_crop=True, flip=True) for _ in range(2))
    batch = created.batch(images[index])
    assert batch.shape == (50, 3, 6, 5) and torch.equal(batch, same.batch(images[index]))
    grey = torch.full((4, 3, 9, 7), 77, dtype=torch.uint8)
    torch.testing.assert_close(augmenter(grey, resized_crop=True).batch(grey[:4]), normalise(grey, MEAN, STD))


def changed(image, factors, order):
    """An image's brightness, contrast and saturation changed by torchvision."""
    changes = [v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation]
    for number in order.tolist():
        image = changes[number](image, factors[number].item())
    return image


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_color_jitter_is_torchvisions_image_by_image(memory):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 3, 31, 17), dtype=torch.uint8, generator=random)
    factors, order = 2 * torch.rand((3, 60), generator=random), torch.rand((3, 60), generator=random).argsort(0)
    result = jitter_color(images.contiguous(memory_format=memory), factors, order)
    want = torch.stack([changed(*one) for one in zip(images, factors.T, order.T, strict=True)])
    # Each step drops fractions: on processors that multiply and add in one, a last bit may make a whole level.
    assert (result != want).float().mean() < 1e-3 and (result.int() - want.int()).abs().max() <= 3
    assert torch.equal(jitter_color(images, torch.ones(3, 60), order), images)


def test_every_image_draws_its_own_factors_and_order():
    created = augmenter(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), color_jitter=0.4)
    factors, order = created._jitter(ImageDraws(created.generator, 20_000))
    assert factors.min() >= 0.6 and factors.max() <= 1.4
    assert factors.mean(1).tolist() == pytest.approx([1.0] * 3, abs=0.01)
    assert factors.std(1).tolist() == pytest.approx([0.8 / 12**0.5] * 3, abs=0.01)
    assert factors.corrcoef().fill_diagonal_(0).abs().max() < 0.03
    numbers, counts = (order * torch.tensor([[9], [3], [1]])).sum(0).unique(return_counts=True)
    assert len(numbers) == 6 and counts.min() > 0.9 * 20_000 / 6 and (order.sum(0) == 3).all()


def test_color_jitter_changes_a_batch(images):
    index = torch.arange(50)
    created = augmenter(images, 4, color_jitter=0.4)
    factors, order = created._jitter(ImageDraws(created.generator, 50))
    batch = augmenter(images, 4, color_jitter=0.4).batch(images[index])
    torch.testing.assert_close(batch, normalise(jitter_color(images, factors, order), MEAN, STD))
    assert not torch.equal(batch, normalise(images, MEAN, STD))


def test_lighting_adds_the_principal_components_of_each_images_draws(images):
    vectors = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    deviations = [0.2175, 0.0188, 0.0045]
    draws = torch.tensor([[0.1, -0.2, 0.3], [0.0, 0.0, 0.0], [-0.3, 0.1, 0.0]])
    want = [
        [sum(v * a * d for v, a, d in zip(vectors[c], one, deviations, strict=True)) for c in range(3)] for one in draws
    ]
    torch.testing.assert_close(lighting_shift(draws), torch.tensor(want))
    batch = augmenter(images, lighting=0.1).batch(images)
    shift = (batch - normalise(images, MEAN, STD)) * torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(shift, shift[:, :, :1, :1].expand_as(shift), atol=1e-6)
    assert len(shift[:, 0, 0, 0].unique()) == 50


def test_lighting_draws_with_its_standard_deviation():
    black = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)
    shift = augmenter(black, lighting=0.1).batch(black[torch.zeros(20_000, dtype=torch.int64)])[:, :, 0, 0]
    shift = (shift - normalise(black[:1], MEAN, STD)[0, :, 0, 0]) * torch.tensor(STD)
    vectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    draws = torch.linalg.solve(vectors, shift.T) / torch.tensor([[0.2175], [0.0188], [0.0045]])
    assert draws.std(1).tolist() == pytest.approx([0.1] * 3, rel=0.03)
    assert draws.mean(1).tolist() == pytest.approx([0.0] * 3, abs=0.003)


@pytest.mark.parametrize("settings", [{"color_jitter": 0.4}, {"lighting": 0.1}])
def test_colours_are_varied_on_rgb_alone(images, settings):
    for channels in (1, 2):
        with pytest.raises(InputError, match=f"requires 3 channels, but images have {channels}; use another recipe"):
            augmenter(images[:, :channels], **settings)


def test_cutout_clears_one_square_clipped_at_the_border(images):
    index = torch.arange(50).repeat(20)
    batch = augmenter(images, cutout=3).batch(images[index])
    centres = set()
    for number, image in zip(index.tolist(), batch, strict=True):
        cleared = (image == 0).all(0)
        rows, columns = cleared.any(1).nonzero().view(-1), cleared.any(0).nonzero().view(-1)
        assert cleared.sum() == len(rows) * len(columns) and 2 <= len(rows) <= 3 and 2 <= len(columns) <= 3
        torch.testing.assert_close(image[:, ~cleared], one(images[number])[:, ~cleared])
        centres.add((rows.tolist()[0], rows.tolist()[-1], columns.tolist()[0], columns.tolist()[-1]))
    assert len(centres) == 30  # one for each pixel as the centre


def test_draws_come_from_the_seed_and_leave_the_global_generator_alone(images):
    index = torch.arange(50)
    before = torch.get_rng_state()
    settings = {"crop": 2, "flip": True, "cutout": 2, "autoaugment": "cifar10", "color_jitter": 0.4, "lighting": 0.1}
    first, second, other = (augmenter(images, seed, **settings) for seed in (0, 0, 1))
    batch = first.batch(images[index])
    assert torch.equal(batch, second.batch(images[index])) and not torch.equal(batch, other.batch(images[index]))
    assert not torch.equal(batch, first.batch(images[index]))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_the_policies_are_the_published_ones(name):
    reference = v2.AutoAugment(v2.AutoAugmentPolicy[name.upper()])._policies
    assert list(policy(name)) == reference


@pytest.mark.parametrize("operation", list(v2.AutoAugment._AUGMENTATION_SPACE))
def test_operations_agree_with_torchvision_image_by_image(operation):
    images = torch.randint(0, 256, (4, 3, 20, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reference = v2.AutoAugment()
    strengths, signed = reference._AUGMENTATION_SPACE[operation]
    table = strengths(10, 20, 16)
    for level in range(10 if table is not None else 1):
        for sign in (1, -1) if signed else (1,):
            strength = sign * float(table[level]) if table is not None else 0.0
            options = {"interpolation": reference.interpolation, "fill": reference._fill}
            want = [reference._apply_image_or_video_transform(i, operation, strength, **options) for i in images]
            got = apply(images, operation, level, sign)
            assert (got.int() - torch.stack(want).int()).abs().max() <= 1  # rounding of the strength


def test_every_image_draws_its_own_sub_policy(monkeypatch):
    monkeypatch.setattr(
        "nas_agg.training.autoaugment._apply_to", lambda images, chosen, *step: drawn.append((chosen, step))
    )
    drawn = []
    draws = ImageDraws(torch.Generator().manual_seed(0), 20_000)
    autoaugment(torch.zeros((20_000, 1, 4, 4), dtype=torch.uint8), "cifar10", draws)
    share = {}
    for chosen, (operation, _, _) in drawn:
        share[operation] = share.get(operation, 0) + chosen.float().mean().item()
    want = {}
    for steps in policy("cifar10"):
        for operation, probability, _ in steps:
            want[operation] = want.get(operation, 0) + probability / 25
    assert share == pytest.approx(want, abs=0.015)
    rotations = [chosen.float().mean().item() for chosen, (operation, _, sign) in drawn if operation == "Rotate"]
    assert len(rotations) == 2 and rotations == pytest.approx([0.014, 0.014], abs=0.005)


def test_autoaugment_works_on_grey_and_refuses_other_channels(images):
    grey = Augmenter(1, (6, 5), images.device, Augmentation(autoaugment="imagenet"), (0.5,), (0.5,), 0)
    assert grey.batch(images[:, :1]).shape == (50, 1, 6, 5)
    with pytest.raises(InputError, match="have 2;"):
        augmenter(images[:, :2], autoaugment="cifar10")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fields", [{"randaugment": 3}, {"trivialaugment": True}])
def test_policies_change_images_by_their_generator_alone(channels, fields):
    images = torch.randint(0, 256, (16, channels, 12, 12), dtype=torch.uint8)
    before = images.clone()

    def batch(seed):
        augmentation = Augmentation(**fields)
        augmenter = Augmenter(
            channels, (12, 12), torch.device("cpu"), augmentation, (0.0,) * channels, (1.0,) * channels, seed
        )
        return augmenter.batch(images)

    state = torch.get_rng_state()
    assert torch.equal(batch(1), batch(1)) and not torch.equal(batch(1), batch(2))
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)
    unchanged = (batch(1) == normalise(images, (0.0,) * channels, (1.0,) * channels)).flatten(1).all(1)
    assert unchanged.sum() < 8


def test_trivialaugment_has_torchvisions_operations_and_ranges():
    images = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reference = v2.TrivialAugmentWide()
    assert set(reference._AUGMENTATION_SPACE) == set(OPERATIONS)
    options = {"interpolation": reference.interpolation, "fill": reference._fill}
    for operation, (strengths, _) in reference._AUGMENTATION_SPACE.items():
        if (table := strengths(31, 20, 20)) is not None:
            want = [
                reference._apply_image_or_video_transform(i, operation, float(table[17]), **options) for i in images
            ]
            got = apply(images, operation, 9 * 17 / 30 * wide_range(operation, 20))
            assert (got.int() - torch.stack(want).int()).abs().max() <= 1, operation


def test_erasing_sets_rectangles_of_some_images_to_the_mean():
    images = torch.full((4000, 1, 20, 30), 200, dtype=torch.uint8)
    augmenter = Augmenter(1, (20, 30), torch.device("cpu"), Augmentation(erasing=0.25), (0.0,), (1.0,), 0)
    erased = (augmenter.batch(images) == 0)[:, 0]
    share = erased.flatten(1).float().mean(1)
    assert 0.22 < (share > 0).float().mean() < 0.28
    assert share[share > 0].min() > 0.01 and share.max() < 0.36
    for one in erased[share > 0][:50]:  # a rectangle
        rows, columns = one.any(1), one.any(0)
        assert torch.equal(one, rows[:, None] & columns)
