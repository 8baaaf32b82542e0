"""The public names are sorted, exist, and are typed."""

import importlib

import pytest


@pytest.mark.parametrize("package", ["rleif", "reward_models"])
def test_public_names_are_sorted_and_every_one_can_be_imported(package):
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        found = getattr(module, name)
        assert getattr(found, "__name__", name) == name
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("package", ["rleif", "reward_models"])
def test_an_unknown_name_is_answered_with_the_known_ones(package):
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match="it exports"):
        _ = module.Nothing
