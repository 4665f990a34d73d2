from __future__ import annotations

import json

import numpy as np
import pytest
from table_stand_ins import CONFIG, GIVEN, full, made_up

from weakaudio.errors import WeakAudioError
from weakaudio.nas.components import Component, count_components
from weakaudio.nas.latency_model import predict, random_configs, validate
from weakaudio.nas.search_space import SearchSpace
from weakaudio.networks.flash import FlashCNN


def test_a_prediction_is_the_sum_of_the_components() -> None:
    prediction = predict(CONFIG, full([CONFIG]), *GIVEN)
    by_hand = {
        "front end": made_up(Component("front end", "16k", 1, 1, 138, 64, 2, 1.37, "float32")),
        "stem": 2e-3 + 138e-5 + 1e-6 + 4e-7,
        "entry": 3 * 3e-3 + (35 + 18 + 9) * 1e-5 + (4 + 8 + 8) * 1e-6 + (8 + 8 + 12) * 1e-7,
        "block": 5 * 4e-3 + (35 + 3 * 9 + 5) * 1e-5 + (4 + 3 * 8 + 12) * 1.1e-6,
        "last": 5e-3 + 5e-5 + 12e-6 + 7e-7,
        "head": 6e-3 + 5e-5 + 7e-6 + 5e-7,
    }
    assert prediction.parts == pytest.approx(by_hand)
    assert prediction.front_end == by_hand["front end"]
    assert prediction.total == pytest.approx(sum(by_hand.values()))
    assert prediction.network == pytest.approx(sum(by_hand.values()) - by_hand["front end"])


def test_validation_compares_networks_with_their_sums() -> None:
    configs = [{**CONFIG, "n_features": n} for n in (3, 5, 7, 9)]
    table = full(configs)
    wrong = dict(zip((3, 5, 7, 9), (1.0, 1.1, 0.8, 2.0), strict=True))
    result = validate(
        table,
        configs,
        *GIVEN,
        measure=lambda config: wrong[config["n_features"]] * predict(config, table, *GIVEN).network,
    )
    np.testing.assert_allclose(result.errors, [0, 1 / 1.1 - 1, 0.25, -0.5])
    assert result.median == pytest.approx((1 - 1 / 1.1 + 0.25) / 2)
    assert result.percentile_90 == pytest.approx(0.25 + 0.7 * 0.25)
    assert "4 networks: relative error of the predicted latency 17.0% (median), 42.5%" in str(result)
    common = (1 + 1 / 1.1) / 2
    assert result.factor == pytest.approx(common)
    others = (1 / common - 1, 1 - 1 / 1.1 / common, 1.25 / common - 1, 1 - 0.5 / common)
    assert result.median_beside_factor == pytest.approx(np.median(others))
    assert "17.9% (median) after a common factor of 0.95" in str(result)
    with pytest.raises(WeakAudioError, match="no networks"):
        validate(table, [], *GIVEN)


def test_random_networks_are_distinct_seeded_and_can_be_built() -> None:
    configs = random_configs(30, seed=1, n_classes=3)
    assert configs == random_configs(30, seed=1, n_classes=3)
    assert configs != random_configs(30, seed=2, n_classes=3)
    assert len({json.dumps(config) for config in configs}) == 30
    for config in configs[:2]:
        assert count_components(FlashCNN(**config).config, "32k", 1.0, 1) == count_components(config, "32k", 1.0, 1)
    one = (("dense",),) * 4
    small = SearchSpace(operators=one, blocks=((1,),) * 4, channels=((8, 16), (8,), (8,), (8,)), features=(16,))
    with pytest.raises(WeakAudioError, match="3 distinct networks: the space has no more than about 2"):
        random_configs(3, space=small)
