"""Norm layers that hold a source's classes and several adapters': old rows bit-identical in any mix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_gans import KINDS, disturb, latents, small_gan
from test_norm import CHANNELS, CLASSES, EMBEDDING, FORMS, class_norm, condition, randn
from torch import Tensor, nn

from gantransfer.norm import BatchNorm, ClassMixture, Condition, RoutedNorm, class_rows


def routed(form: str) -> tuple[RoutedNorm, list[nn.Module]]:
    """A source of 4 classes and two adapters of 2 and 4 classes."""
    source = class_norm(form)
    own = "noisy-table" if form in ("shared+noise", "noisy-table") else "table"
    adapters = [class_norm(own, seed=s) for s in (10, 20)]
    adapters[0].gain.weight = nn.Parameter(adapters[0].gain.weight[:2].clone())
    adapters[0].bias.weight = nn.Parameter(adapters[0].bias.weight[:2].clone())
    norm = RoutedNorm(source, [CLASSES, 2], [adapters[0]])
    norm.append(adapters[1], 4)
    return norm.eval(), [source, *adapters]


def routed_condition(form: str, labels: Tensor) -> Condition:
    return condition(form, labels.where(labels < CLASSES, 0))._replace(labels=labels)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("form", FORMS)
def test_routing_by_class(form: str, layout: torch.memory_format) -> None:
    norm, parts = routed(form)
    labels = torch.tensor([0, 9, 4, 3, 5, 6, 1, 9])
    x = randn(8, CHANNELS, 4, 4).contiguous(memory_format=layout)
    c = routed_condition(form, labels)
    with torch.no_grad():
        out = norm(x, c)
        assert out.is_contiguous(memory_format=layout)  # else later convolutions would round differently
        alone = parts[0](x, c._replace(labels=labels.where(labels < CLASSES, 0)))
        old = labels < CLASSES
        assert torch.equal(out[old], alone[old])
        for part, first, size in ((parts[1], 4, 2), (parts[2], 6, 4)):
            rows = (labels >= first) & (labels < first + size)
            mine = Condition(*(None if t is None else t[rows] for t in c))._replace(labels=labels[rows] - first)
            torch.testing.assert_close(out[rows], part(x[rows], mine), atol=1e-6, rtol=0)
        other = torch.tensor([0, 7, 8, 3, 1, 6, 1, 5])  # another mix around the same old rows 0, 3 and 6
        again = norm(x, c._replace(labels=other))
        assert torch.equal(again[[0, 3, 6]], out[[0, 3, 6]])
        assert not torch.equal(again[[1, 2, 5, 7]], out[[1, 2, 5, 7]])


@pytest.mark.parametrize("form", FORMS)
def test_routed_mixtures_blend_the_norms(form: str) -> None:
    norm, parts = routed(form)
    x = randn(3, CHANNELS, 2, 2)
    total = CLASSES + 2 + 4
    labels = torch.tensor([1, 4, 8])
    c = routed_condition(form, labels)
    with torch.no_grad():
        pure = norm(x, c)
        hot = norm(x, c._replace(labels=F.one_hot(labels, total).float()))
        torch.testing.assert_close(hot, pure, atol=1e-5, rtol=0)
        other = torch.tensor([7, 9, 5])
        between = 0.25 * F.one_hot(labels, total).float() + 0.75 * F.one_hot(other, total).float()
        blend = norm(x, c._replace(labels=between))
        ends = norm(x, c._replace(labels=other))
        same_norm = torch.tensor([False, False, False])
        for i in range(3):
            groups = [(v >= 4) + (v >= 6) for v in (int(labels[i]), int(other[i]))]
            same_norm[i] = groups[0] == groups[1]
        mixed = 0.25 * pure + 0.75 * ends
        torch.testing.assert_close(blend[~same_norm], mixed[~same_norm], atol=1e-5, rtol=0)


def test_routed_class_rows_list_every_class() -> None:
    norm, parts = routed("shared")
    scales, shifts = class_rows(norm, EMBEDDING)
    assert scales.shape == shifts.shape == (CLASSES + 2 + 4, CHANNELS)
    assert torch.equal(scales[4:6], 1 + parts[1].gain.weight) and torch.equal(shifts[6:], parts[2].bias.weight)
    assert torch.equal(scales[:4], class_rows(parts[0], EMBEDDING)[0])


def test_a_routed_plain_norm() -> None:
    source, adapter = BatchNorm(CHANNELS), BatchNorm(CHANNELS)
    disturb(source, 1)
    disturb(adapter, 2)
    norm = RoutedNorm(source, [4, 2], [adapter]).eval()
    assert norm.channels == CHANNELS
    x, labels = randn(4, CHANNELS, 2, 2), torch.tensor([5, 0, 4, 3])
    c = Condition(labels, None, None)
    with torch.no_grad():
        out, old, new = norm(x, c), source(x, c), adapter(x, c)
    assert torch.equal(out[[1, 3]], old[[1, 3]])
    torch.testing.assert_close(out[[0, 2]], new[[0, 2]], atol=1e-6, rtol=0)
    assert torch.equal(norm(x, Condition(None, None, None)), source(x, c))


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_extended_generator_keeps_old_classes_bit_identical(kind: str) -> None:
    gan = small_gan(kind)
    source = gan.generator
    extended = source
    with pytest.raises(IndexError):
        source(latents(gan, 1), torch.tensor([9]))
    for classes, seed in ((2, 5), (3, 6)):  # two adapters, the second on the extended model
        norms = extended.adapter_norms(classes)
        for i, norm in enumerate(norms.values()):
            disturb(norm, 100 * seed + i)
        extended = extended.extended(norms, classes).eval()
    assert extended.num_classes == 9 and extended.num_base_classes == 4 and source.num_classes == 4
    with pytest.raises(IndexError):  # like the source, and not images of some other class
        extended(latents(gan, 2), torch.tensor([0, 9]))
    z = latents(gan, 12)
    old = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 3, 2, 1, 0])
    with torch.no_grad():
        expected = source(z, old)
        assert torch.equal(extended(z, old), expected)
        mixed = old.clone()
        mixed[[1, 4, 5, 11]] = torch.tensor([4, 8, 5, 6])
        out = extended(z, mixed)
        kept = mixed < 4
        assert torch.equal(out[kept], expected[kept])
        assert (out[~kept] - expected[~kept]).abs().amax((1, 2, 3)).min() > 1e-3
        hot = extended(z, ClassMixture(F.one_hot(mixed, 9).float()))
        torch.testing.assert_close(hot, out, atol=1e-5, rtol=0)
    base = extended.base()
    assert all(torch.equal(base.state_dict()[k], v) for k, v in source.state_dict().items())
