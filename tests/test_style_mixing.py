"""Style mixing: what comes from the source, what from the destination, and images for training something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_source

from gantransfer.errors import ModelError, UsageError
from gantransfer.methods.adafm import AdaFM
from gantransfer.methods.minegan import MineGAN
from gantransfer.modulation import fold
from gantransfer.plan import Target
from gantransfer.sampling import draw_latents, to_uint8
from gantransfer.sources import GAN
from gantransfer.style_mixing import style_augment, style_grid, style_groups, style_mix, style_picture


@pytest.fixture(scope="module", params=[(), ("a", "b", "c")], ids=["unlabelled", "three classes"])
def gan(request: pytest.FixtureRequest) -> GAN:
    source = make_source("gp_gan", g_width=4)
    target = Target(10, request.param, 32, 1)
    generator = fold(AdaFM(general_g=3, style_dim=16, mapping_layers=2).reshape([source], target))
    with torch.no_grad():  # a fresh head hardly varies
        for name, param in generator.named_parameters():
            if "adain" in name or "conv_s" in name:
                param.mul_(6)
    return GAN(generator, arch="gp_gan", classes=request.param or None)


def label(gan: GAN, n: int, value: int = 0) -> torch.Tensor | None:
    return torch.full((n,), value) if gan.generator.num_classes else None


def alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for rounding, which depends on the size of a batch."""
    return bool(np.abs(a.astype(int) - b.astype(int)).max() <= 1)


def test_sites_by_hand(gan: GAN) -> None:
    g = gan.generator
    assert style_groups(g) == [4, 5] and g.style_sites == 4
    a, b = draw_latents(1, g.z_dim, 3), draw_latents(1, g.z_dim, 7)
    own, other = g.styles(a, label(gan, 1)), g.styles(b, label(gan, 1))
    for groups, styles in (((4,), [own, own, other, other]), ((5,), [other, other, own, own]), ((), [own] * 4),
                           ((4, 5), [other] * 4)):
        with torch.no_grad():
            expected = to_uint8(g(a, label(gan, 1), styles=styles)).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(style_mix(gan, [3], [7], groups)[0], expected)
    assert np.array_equal(style_mix(gan, [3], [7]), style_mix(gan, [3], [7], [4]))
    assert not np.array_equal(style_mix(gan, [3], [7], [4]), style_mix(gan, [3], [7], [5]))


def test_the_grid_has_its_margins(gan: GAN) -> None:
    mixed = style_mix(gan, [0, 1], [5, 6, 7])
    assert mixed.shape == (2, 3, 32, 32, 1) and mixed.dtype == np.uint8
    grid = style_grid(gan, [0, 1], [5, 6, 7]).reshape(3, 4, 32, 32, 1)
    assert np.array_equal(grid[1:, 1:], mixed) and (grid[0, 0] == 255).all()
    for cell, seed in ((grid[0, 2], 6), (grid[2, 0], 1)):
        assert np.array_equal(cell, gan.sample(1, classes=0, seed=seed)[0])


def test_a_latent_with_itself_is_itself(gan: GAN) -> None:
    for groups in ([4], [4, 5]):
        assert np.array_equal(style_mix(gan, [2], [2], groups)[0], gan.sample(1, classes=0, seed=2))


def test_images_for_training(gan: GAN) -> None:
    found = list(style_augment(gan, 130, seed=1))
    classes = max(gan.generator.num_classes, 1)
    assert [m.label for m in found] == [i % classes for i in range(130)]
    assert len({m.source for m in found} | {m.destination for m in found}) == 260
    few = list(style_augment(gan, 3, seed=1))
    assert all(alike(a.image, b.image) for a, b in zip(few, found, strict=False))
    one = found[129]
    assert alike(one.image, style_mix(gan, [one.source], [one.destination],
                                      class_name=one.label if gan.generator.num_classes else None)[0, 0])
    assert not np.array_equal(next(style_augment(gan, 1, seed=2)).image, found[0].image)
    short = list(style_augment(gan, 3, seed=1, classes=[classes - 1], truncation=0.3))
    assert [m.label for m in short] == [classes - 1] * 3 and not alike(short[0].image, few[0].image)
    assert np.array_equal(style_mix(gan, [3], [7], 5), style_mix(gan, [3], [7], [5]))


def test_what_cannot_be_mixed(gan: GAN, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="style group 6 does not exist; this model has 4, 5"):
        style_mix(gan, [0], [1], [6])
    with pytest.raises(UsageError, match="at least one seed"):
        style_mix(gan, [], [1])
    for wrong, message in (({"n": 0}, "0 style-mixed images"), ({"classes": ["nope"]}, "class 'nope' is not one of"),
                           ({"classes": []}, "no class is asked for"), ({"seed": -1}, "seed -1 is not possible"),
                           ({"groups": 6}, "style group 6 does not exist")):
        with pytest.raises(UsageError, match=message):
            style_augment(gan, **{"n": 1, **wrong})  # at once, before any image
    with pytest.raises(UsageError, match="class 'nope' is not one of this model's"):
        style_mix(gan, [0], [1], class_name="nope")
    with pytest.raises(UsageError, match="class 'nope' is not one of this model's"):
        gan.sample(1, "nope")
    plain = make_source("gp_gan")
    with pytest.raises(ModelError, match="has no styles to mix"):
        style_mix(plain, [0], [1])
    with pytest.raises(ModelError, match="has no styles"):
        plain.generator.styles(torch.zeros(1, 8), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ModelError, match="has no styles to mix"):
        style_picture(make_source(), tmp_path / "x.png")
    style_picture(gan, tmp_path / "x.png")
    assert (tmp_path / "x.png").is_file()


def test_noise_belongs_to_the_latent_behind_a_miner_too(gan: GAN) -> None:
    """Mined latents are numbers whose last digits depend on the batch; the noise must not."""
    method = MineGAN(per_class=bool(gan.generator.num_classes), finetune=False)
    critic = make_source("gp_gan", num_classes=gan.generator.num_classes).discriminator
    source = GAN(gan.generator, critic, arch="gp_gan", classes=gan.classes)
    mined = method.reshape([source], Target(10, ("x",) if gan.generator.num_classes else (), 32, 1)).eval()
    u = draw_latents(64, mined.z_dim, 0)
    y = torch.full((64,), mined.num_classes - 1) if mined.num_classes else None
    with torch.no_grad():
        alone = torch.cat([mined(u[i : i + 1], None if y is None else y[:1]) for i in range(4)])
        torch.testing.assert_close(mined(u, y)[:4], alone, atol=1e-4, rtol=0)


def test_noise_belongs_to_the_latent(gan: GAN) -> None:
    """The same latent gives the same image in every batch; maps given by hand count, and too few are refused."""
    g, n = gan.generator, 5
    z = draw_latents(n, g.z_dim, 0)
    with torch.no_grad():
        alone = torch.cat([g(z[i : i + 1], label(gan, 1)) for i in range(n)])
        torch.testing.assert_close(g(z, label(gan, n)), alone, atol=1e-5, rtol=0)
        maps = g.specific.noise(z)
        assert [m.shape for m in maps] == [(n, 1, s, s) for s in (4, 4, 8, 8)]
        assert torch.equal(g(z, label(gan, n), maps), g(z, label(gan, n)))
        assert not torch.equal(g(z, label(gan, n), [m + 1 for m in maps]), g(z, label(gan, n)))
    with pytest.raises(ModelError, match="1 noise were given to a generator with 4 sites"):
        g(z, label(gan, n), maps[:1])
    with pytest.raises(ModelError, match="no style head"):
        make_source("gp_gan").generator(torch.zeros(1, 8), torch.zeros(1, dtype=torch.int64), maps)
    values = g.specific.noise(draw_latents(400, g.z_dim, 1))[3]
    assert abs(float(values.mean())) < 0.02 and abs(float(values.std()) - 1) < 0.02
