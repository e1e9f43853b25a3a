import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from mcgm.data import Dataset, ElementReferences, ReferenceFit, fit_references
from mcgm.errors import ConfigError, DataError
from mcgm.structure import Structure

TRUE = {1: -13.6, 6: -1030.0, 8: -2041.0}


def of_formulas(formulas, energy):
    items = []
    for formula in formulas:
        numbers = np.repeat(list(formula), list(formula.values()))
        items.append(Structure(numbers, np.arange(3.0 * len(numbers)).reshape(-1, 3), energy=energy(formula)))
    return Dataset.from_structures(items)


def total(formula):
    return sum(TRUE[z] * n for z, n in formula.items())


@pytest.fixture
def formulas():
    random = np.random.default_rng(1)
    return [{1: int(a), 6: int(b), 8: int(c)} for a, b, c in random.integers(1, 9, (40, 3))]


def test_true_element_energies_are_found(formulas):
    references = fit_references(of_formulas(formulas, total))
    for z, energy in TRUE.items():
        assert references.energies[z] == pytest.approx(energy, abs=1e-8)
    assert references.energies.shape == (119,)
    assert np.count_nonzero(references.energies) == 3
    assert references.intercept == 0.0


def test_nothing_is_fitted_where_energies_are_no_sums_over_atoms(formulas):
    references = ReferenceFit(fit_on="none", intercept=True).fit(of_formulas(formulas, total))
    assert not references.energies.any()
    assert references.intercept == 0.0


def test_the_fit_with_intercept_is_that_of_scikit_learn(formulas):
    random = np.random.default_rng(2)
    dataset = of_formulas(formulas, lambda formula: total(formula) + 5 + random.normal())
    references = fit_references(dataset, intercept=True)
    elements, counts = dataset.composition
    oracle = LinearRegression().fit(counts, dataset.energies)
    np.testing.assert_allclose(references.energies[elements], oracle.coef_, rtol=1e-9)
    assert references.intercept == pytest.approx(oracle.intercept_, rel=1e-6)
    np.testing.assert_allclose(references.of(dataset), oracle.predict(counts), rtol=1e-12)


def test_one_composition_has_the_smallest_solution():
    dataset = of_formulas([{1: 4, 6: 1}] * 3, lambda formula: -40.0)
    references = fit_references(dataset)
    oracle = np.linalg.lstsq(np.array([[4.0, 1.0]] * 3), np.full(3, -40.0), rcond=None)[0]
    np.testing.assert_allclose(references.energies[[1, 6]], oracle)
    np.testing.assert_allclose(references.of(dataset), -40.0)


def test_signs_are_kept_when_they_are_asked_for(formulas):
    dataset = of_formulas(formulas, lambda formula: total(formula) + 100 * formula[1])
    assert fit_references(dataset).energies[1] > 0
    bounded = fit_references(dataset, sign="non_positive", intercept=True)
    assert bounded.energies.max() <= 0
    positive = fit_references(of_formulas(formulas, lambda formula: -total(formula)), sign="non_negative")
    assert positive.energies[6] == pytest.approx(1030.0)


def test_training_structures_decide_unless_all_are_asked_for(formulas):
    train = of_formulas(formulas, total)
    everything = of_formulas(formulas, lambda formula: total(formula) + formula[1])
    assert ReferenceFit().fit(train, everything).energies[1] == pytest.approx(-13.6)
    assert ReferenceFit(fit_on="all").fit(train, everything).energies[1] == pytest.approx(-12.6)
    with pytest.raises(ConfigError, match="needs the whole data set"):
        ReferenceFit(fit_on="all").fit(train)


def test_a_missing_energy_is_told():
    with pytest.raises(DataError, match="energy required for every structure, but 1 have none"):
        fit_references(Dataset.from_structures([Structure(np.array([1]), np.zeros((1, 3)))]))


def test_wrong_options_and_shapes_are_refused():
    with pytest.raises(ConfigError, match="unknown sign 'positive'"):
        ReferenceFit(sign="positive")
    with pytest.raises(ConfigError, match="required 119 finite energies"):
        ElementReferences(np.zeros(10))
