"""Peers that no library has, against their definitions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks.peers import ease_input, ials, slim_weights, svd
from tests.models.helpers import make_parts

TRAIN = make_parts().train


def test_slim_meets_the_conditions_of_a_minimum() -> None:
    interactions, l1, l2 = ease_input(TRAIN, {"base": 1.5}), 0.5, 5.0
    weights = slim_weights(interactions, l2, l1, steps=3000)
    gram = (interactions.T @ interactions).toarray()
    slope = gram @ weights - gram + l2 * weights + l1
    free = ~np.eye(len(gram), dtype=bool)
    assert np.count_nonzero(weights) > 500
    assert_allclose(slope[(weights > 0) & free], 0, atol=0.01)
    assert slope[(weights == 0) & free].min() > -0.01
    assert not weights.diagonal().any()


def test_an_item_s_vector_of_ials_leaves_no_gradient() -> None:
    factors = ials(TRAIN, 6, 0.01, 0.2, 1.5, 3)
    users, items = factors.user_factors.astype(np.float64), factors.item_factors.astype(np.float64)
    weights = ease_input(TRAIN, {"base": 1.5}).toarray()
    for item in (0, 17, 60):
        weight, scores = weights[:, item], users @ items[item]
        penalty = 0.01 * (np.count_nonzero(weight) + 0.2 * len(users))
        slope = (weight * (scores - 1)) @ users + 0.2 * scores @ users + penalty * items[item]
        assert_allclose(slope, 0, atol=1e-5)
        assert np.abs(items[item]).max() > 0.01


@pytest.mark.slow  # of the extra `bench`, which `make test` does without
@pytest.mark.parametrize("kind", ["SVD", "SVDpp"])
def test_exported_factors_predict_what_surprise_predicts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import surprise

    fitted = []
    fit = getattr(surprise, kind).fit

    def keep(model: object, data: object) -> None:
        fitted.append(model)
        fit(model, data)

    monkeypatch.setattr(getattr(surprise, kind), "fit", keep)
    factors = svd(TRAIN, 4, 3, 0.01, 0.02, kind)
    expected = [
        fitted[0].predict(user, item, clip=False).est
        for user, item in zip(TRAIN.users[:50], TRAIN.items[:50], strict=True)
    ]
    assert_allclose(factors.predict(TRAIN.users[:50], TRAIN.items[:50]), expected, atol=1e-5)
