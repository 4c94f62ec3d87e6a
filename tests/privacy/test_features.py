"""Feature maps: against formulas written out, equal for mirror images, and compiled as they are in PyTorch."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from privlib.compiler import compile_inference, inference_stages
from privlib.privacy import features, preparation, recipes, second_layer
from privlib.privacy.features import CONTRAST_FLOOR, MirrorDictionary, PatchFeatures, WhitenedPatches
from privlib.privacy.recipes import DeepFeatures, Recipe, RecipeError
from privlib.privacy.synthetic import dead_leaves


@pytest.fixture(scope="module")
def images() -> Tensor:
    return dead_leaves(200, 3)


@pytest.fixture(scope="module")
def fitted(images: Tensor) -> PatchFeatures:
    return PatchFeatures.fit(images, atoms=32, threshold=0.1, seed=4)


def eager(module: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module(x)


def explicit_patches(x: Tensor) -> Tensor:
    """(B, 3, H, W) → float64 (B, h, w, 108): mean zero, contrast normalised."""
    patches = functional.unfold(x.double(), 6).transpose(1, 2)
    patches = patches - patches.mean(2, keepdim=True)
    patches = patches / torch.sqrt(patches.square().mean(2, keepdim=True) + CONTRAST_FLOOR)
    return patches.unflatten(1, (x.shape[2] - 5, x.shape[3] - 5))


def test_patches_are_normalised_whitened_and_near_unit_length(images: Tensor, fitted: PatchFeatures) -> None:
    linear = fitted.patches.whiten
    q = explicit_patches(images[:3]) @ linear.weight.double().T + linear.bias.double()
    q = q / (q.norm(dim=-1, keepdim=True) + 0.1 * 108**0.5)
    torch.testing.assert_close(eager(fitted.patches, images[:3]).double(), q, rtol=1e-4, atol=1e-5)


def test_sampled_patches_are_patches_of_their_images(images: Tensor) -> None:
    sampled = features.sample_patches(images[:4], 7, seed=1).double()
    there = explicit_patches(images[:4]).flatten(1, 2)
    for index, own in enumerate(sampled.view(4, 7, 108)):
        distances = torch.cdist(own, there[index]).amin(1)
        assert float(distances.max()) < 1e-4
    assert not torch.equal(sampled, features.sample_patches(images[:4], 7, seed=2).double())


def test_whitening_whitens_what_is_stronger_than_its_floor(images: Tensor) -> None:
    patches, sampled = WhitenedPatches.fit(images, seed=4)
    whitened = eager(patches.whiten, torch.cat([sampled, features.mirrored_patches(sampled)])).double()
    variances = torch.linalg.eigvalsh(whitened.T @ whitened / len(whitened))
    assert float(whitened.mean(0).abs().max()) < 1e-3
    assert 0.9 < float(variances[-20]) <= float(variances[-1]) <= 1.0


def test_dictionary_answers_are_those_of_the_formula(fitted: PatchFeatures, images: Tensor) -> None:
    positions, dictionary = eager(fitted.patches, images[:2]), fitted.dictionary
    atoms, threshold = dictionary.atoms.weight.detach().double(), dictionary.threshold
    z = (positions.double() @ atoms.T).numpy()
    rows = (slice(0, 14), slice(13, 27))
    expected = np.empty((2, 2, 2, 2, 16))
    for cy, cx, side, pair in np.ndindex(2, 2, 2, 16):
        sign = 1 - 2 * side
        own = np.maximum(sign * z[:, rows[cy], rows[cx], pair] - threshold, 0).mean((1, 2))
        mirrored = np.maximum(sign * z[:, rows[cy], rows[1 - cx], 16 + pair] - threshold, 0).mean((1, 2))
        expected[:, cy, cx, side, pair] = (own + mirrored) / 2
    torch.testing.assert_close(eager(dictionary, positions).double(), torch.from_numpy(expected).flatten(1),
                               rtol=1e-4, atol=1e-6)  # fmt: skip


def test_atoms_have_unit_length_and_their_mirror_images_beside_them(fitted: PatchFeatures) -> None:
    atoms = fitted.dictionary.atoms.weight
    torch.testing.assert_close(atoms.norm(dim=1), torch.ones(32))
    linear = fitted.patches.whiten
    patches = features.mirrored_patches(atoms @ torch.linalg.inv(linear.weight).T)
    torch.testing.assert_close(functional.normalize(patches @ linear.weight.T)[:16], atoms[16:], rtol=0, atol=0.02)


@pytest.fixture(scope="module")
def deep(images: Tensor, fitted: PatchFeatures) -> DeepFeatures:
    patches, sampled = WhitenedPatches.fit(images, 4)
    small = features.patch_dictionary(patches, sampled, 128, 0.15, 5)
    second = second_layer.fit_second_layer(images, patches, small, 24, 0.1, eager, 6)
    return DeepFeatures(fitted, second, PatchFeatures.fit(images, 20, 0.15, 7, halve=True))


def test_features_of_an_image_and_its_mirror_image_are_equal(images: Tensor, deep: DeepFeatures) -> None:
    there, mirrored = eager(deep, images[:5]), eager(deep, images[:5].flip(3))
    assert there.shape == (5, 4 * (32 + 24 + 20))
    torch.testing.assert_close(there, mirrored, rtol=1e-3, atol=1e-5)
    assert float((there[0] - there[1]).abs().max()) > 0.01


def test_second_layer_patches_have_a_common_contrast(images: Tensor, deep: DeepFeatures) -> None:
    """The convolution divided by the local contrast is the whitening of patches normalised one by one."""
    second, patches = deep.second, eager(deep.first.patches, images[:2])
    maps = eager(second.parts, patches).double().permute(0, 3, 1, 2)
    assert maps.shape == (2, 128, 13, 13)
    rows = functional.unfold(maps, 3).transpose(1, 2)
    rows = rows / torch.sqrt(rows.square().mean(2, keepdim=True) + second.floor)
    q = rows @ second.whiten.weight.double().flatten(1).T + second.shift.double()
    q = (q / (q.norm(dim=-1, keepdim=True) + 1e-3)).unflatten(1, (11, 11))
    expected = eager(second.dictionary, q.float())
    torch.testing.assert_close(eager(second, patches), expected, rtol=1e-3, atol=1e-5)


def test_nothing_in_a_feature_map_is_trainable(deep: DeepFeatures) -> None:
    assert not any(parameter.requires_grad for parameter in deep.parameters())


@pytest.mark.parametrize("name", ["fitted", "deep"])
def test_compiled_features_are_those_of_pytorch(name: str, images: Tensor, request: pytest.FixtureRequest) -> None:
    module = request.getfixturevalue(name)
    found = compile_inference(module, 4).run(images[:6].numpy())
    expected = eager(module, images[:6]).numpy()
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


def test_the_largest_map_is_never_in_memory(fitted: PatchFeatures) -> None:
    stages = inference_stages(fitted, 2)
    names = [str(b.value.op.name) for b in stages["fused"]["main"].body.blocks[0].bindings if hasattr(b.value, "op")]
    assert names.count("privlib.rectified_means") == 1
    assert "privlib.two_sided" not in names and "privlib.cell_means" not in names


def test_rows_have_one_length_and_damped_components(images: Tensor, fitted: PatchFeatures) -> None:
    raw = eager(fitted, images)
    prepared = preparation.fit_preparation(raw, seed=0, components=5)
    rows = eager(prepared, raw)
    torch.testing.assert_close(rows.norm(dim=1), torch.full((200,), 1.01**0.5))
    torch.testing.assert_close(rows[:, -32:].sum(1), torch.full((200,), 0.1 * 32**0.5))
    # before the last normalisation the five leading components are as strong as the sixth
    v = functional.normalize((raw.sqrt() - prepared.mean) * prepared.scale) - prepared.centre
    before = torch.linalg.svdvals(v)
    after = torch.linalg.svdvals(v - prepared.back(prepared.into(v)))
    torch.testing.assert_close(after[:6], before[5].expand(6), rtol=1e-2, atol=0)


def test_a_fitted_recipe_gives_rows_of_uint8_images_and_is_repeatable() -> None:
    recipe = Recipe(atoms=16, threshold=0.2, deep=False, synthetic=600)
    first, again = (recipes.fit(recipe, seed=2) for _ in range(2))
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    rows = first.rows(pixels)
    assert rows.shape == (7, 64 + 32) and rows.dtype == np.float32
    np.testing.assert_array_equal(rows, again.rows(pixels))
    expected = eager(first.module, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    np.testing.assert_allclose(rows, expected.numpy(), rtol=1e-3, atol=1e-5)


def test_too_few_synthetic_images_are_refused() -> None:
    with pytest.raises(RecipeError, match="at least 600"):
        recipes.fit(Recipe(atoms=16, threshold=0.2, deep=False, synthetic=10))


def test_mirror_dictionaries_of_other_grids_of_positions(images: Tensor) -> None:
    dictionary = MirrorDictionary(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), 0.1)
    assert eager(dictionary, torch.randn(3, 5, 9, 4)).shape == (3, 24)
