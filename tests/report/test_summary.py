from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from mcgm.errors import DataError
from mcgm.report.summary import Spread, notes, number, plain, sentences, summarize
from mcgm.report.table import markdown_table, terminal_table


def results_of(result_maker, errors, **options):
    return [result_maker(v, seed, error, **options) for v, row in errors.items() for seed, error in enumerate(row)]


def printed(rows, width=80):
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(terminal_table(rows))
    return capture.get()


def test_means_and_sample_standard_deviations(result_maker):
    rows = summarize(results_of(result_maker, {"schnet": (0.2, 0.22, 0.27)}))
    assert rows[0].energy.mean == pytest.approx(230)
    assert rows[0].energy.deviation == pytest.approx(np.std([200, 220, 270], ddof=1))
    assert rows[0].seeds == (0, 1, 2)


def test_changes_are_paired_over_the_seeds_in_common(result_maker):
    results = [result_maker("schnet", seed, error) for seed, error in ((0, 0.2), (1, 0.4), (7, 9.0))]
    results += [result_maker("schnet_mcgm", seed, error) for seed, error in ((1, 0.3), (0, 0.1))]
    change = summarize(results)[1].energy_change
    assert change.mean == pytest.approx((-50 - 25) / 2)
    assert change.count == 2


@pytest.mark.parametrize(
    ("errors", "verdict", "words"),
    [
        ((0.100, 0.101, 0.099), "lower", "% lower seed by seed (mean 100 instead of 200 meV"),
        ((0.300, 0.301, 0.299), "higher", "% higher seed by seed (mean 300 instead of 200 meV"),
        (
            (0.150, 0.200, 0.240),
            "within noise",
            "not distinguishable, 1.7\u00a0% lower seed by seed but within noise (mean 197",
        ),
        ((0.100,), "one seed", "one seed, spread unknown"),
    ],
)
def test_the_sentence_says_what_the_numbers_say(errors, verdict, words, result_maker):
    count = len(errors)
    rows = summarize(results_of(result_maker, {"schnet": (0.2,) * count, "schnet_mcgm": errors}))
    assert rows[1].energy_change.verdict == verdict
    assert words in plain(sentences(rows)[0])


def test_the_sentence_has_the_errors_of_the_seeds_that_are_compared(result_maker):
    results = [result_maker("schnet", seed, error) for seed, error in ((0, 0.2), (1, 0.4), (7, 9.0))]
    results += [result_maker("schnet_mcgm", seed, error) for seed, error in ((0, 0.1), (1, 0.3), (5, 8.0))]
    rows = summarize(results)
    assert rows[0].energy.mean == pytest.approx(3200)
    text = plain(sentences(rows)[0])
    assert "37.5\u00a0% lower seed by seed but within noise (mean 200 instead of 300 meV; " in text
    assert "over 2 seeds" in text
    assert "(no seed in common)" in plain(sentences(summarize([results[2], results[4]]))[0])


def test_table_and_sentence_have_the_same_change(result_maker):
    """Seeds as unlike as these: the mean of the changes is −62.5 %, the change of the mean −72.7 %."""
    rows = summarize(results_of(result_maker, {"schnet": (0.1, 1.0), "schnet_mcgm": (0.05, 0.25)}))
    assert "| −62.5 ± 12.5 |" in markdown_table(rows)
    assert "in each seed, then the mean over seeds" in markdown_table(rows)
    assert "62.5\u00a0% lower seed by seed but within noise (mean 150 instead of 550 meV" in plain(sentences(rows)[0])


def test_a_reference_without_error_is_no_reference_for_per_cent(result_maker):
    results = results_of(result_maker, {"schnet": (0.2, 0.2), "schnet_mcgm": (0.1, 0.1)})
    perfect = [replace(run, metrics=replace(run.metrics, energy_mae_mev=0.0)) for run in results[:2]]
    rows = summarize([*perfect, *results[2:]])
    assert rows[1].energy_change is None
    assert "100 instead of 0.00 meV (no change in per cent, as the reference has no error)" in plain(sentences(rows)[0])


def test_stress_is_in_the_table_and_the_sentences_where_it_was_measured(result_maker):
    runs = results_of(result_maker, {"schnet": (0.2, 0.2), "schnet_mcgm": (0.1, 0.1)})
    assert "Stress" not in markdown_table(summarize(runs))
    measured = {"schnet": 2.0, "schnet_mcgm": 1.5}
    strained = [
        replace(run, metrics=replace(run.metrics, stress_mae_mev_per_A3=measured[run.variant] + 0.1 * run.seed))
        for run in runs
    ]
    rows = summarize(strained)
    table = markdown_table(rows)
    assert "Stress MAE, meV/Å³" in table
    assert "2.05 ± 0.05" in table
    assert "stress MAE" in plain(sentences(rows)[0])
    assert rows[1].stress_change.mean == pytest.approx(-100 * (0.5 / 2 + 0.5 / 2.1) / 2)


def test_one_seed_is_never_called_better(result_maker):
    rows = summarize(results_of(result_maker, {"schnet": (0.2,), "schnet_mcgm": (0.1,)}))
    assert {phrase.tone for phrase in sentences(rows)[0]} == {"", "noise"}
    assert "One seed per variant" in notes(results_of(result_maker, {"schnet": (0.2,)}))[0]


def test_variants_that_were_not_trained_alike_are_noted(result_maker):
    def found(other, **settings):
        runs = [result_maker("schnet", 0, 0.2, config=settings), result_maker("schnet_mcgm", 0, 0.1, config=other)]
        return [note for note in notes(runs) if "alike" in note]

    usual = {"training": {"steps": 100, "seed": 0, "loss": {"kind": "l1"}}, "data": {"path": "a", "limit": 5}}
    assert found({"training": {"steps": 100, "seed": 1}, "data": {"path": "b"}}, **usual) == []
    other = {"training": {"steps": 400, "loss": {"kind": "l2"}}, "data": {"limit": 9}}
    (note,) = found(other, **usual)
    assert note == "Variants were not trained alike: data.limit, training.loss, training.steps differ."


def test_times_of_several_measurements_are_noted(result_maker):
    def found(*times, commands=("a",) * 4):
        cells = zip(("schnet", "schnet", "schnet_mcgm", "schnet_mcgm"), (0, 1, 0, 1), times, commands, strict=True)
        runs = [
            result_maker(variant, seed, 0.1, inference_ms_per_molecule=time, command=command)
            for variant, seed, time, command in cells
        ]
        return any("timed side by side" in note for note in notes(runs))

    assert not found(1.0, 1.0, 2.0, 2.0)
    assert not found(None, None, None, None, commands=("a", "a", "b", "b"))
    assert not found(1.0, 1.0, 2.0, 2.0, commands=("a", "b", "a", "b"))
    assert found(1.0, 1.5, 2.0, 2.0)
    assert found(1.0, 1.0, None, None)
    assert found(1.0, 1.0, 2.0, 2.0, commands=("a", "a", "b", "b"))


def test_the_interval_is_students():
    spread = Spread.of([1.0, 2.0, 3.0])
    assert spread.interval == pytest.approx((2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3)))


def test_references_come_first(result_maker):
    rows = summarize(results_of(result_maker, {"schnet_mcgm": (0.1,), "schnet": (0.2,)}))
    assert [row.variant for row in rows] == ["schnet", "schnet_mcgm"]


def test_a_variant_that_names_itself_is_a_reference(result_maker):
    assert summarize([result_maker("schnet", 0, 0.2, reference="schnet")])[0].reference is None


def test_what_cannot_be_compared_is_an_error(result_maker):
    with pytest.raises(DataError, match="which has no results"):
        summarize([result_maker("schnet_mcgm", 0, 0.1)])
    with pytest.raises(DataError, match="two results of seed 0"):
        summarize([result_maker("schnet", 0, 0.1), result_maker("schnet", 0, 0.2)])
    with pytest.raises(DataError, match="one data set"):
        summarize([result_maker("schnet", 0, 0.1), result_maker("schnet", 1, 0.2, dataset="other")])
    with pytest.raises(DataError, match="at least one"):
        summarize([])


def test_the_terminal_table_fits_into_80_characters_and_keeps_every_figure(result_maker):
    errors = {"schnet": (0.2, 0.22), "schnet_mcgm": (0.1, 0.121)}
    text = printed(summarize(results_of(result_maker, errors)))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for figure in ("210", "110", "± 10", "12,345", "0.250", "−47.5", "± 2.5"):
        assert figure in text


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        ((0.2, 0.22), "210 ± 10"),
        ((0.2, 0.2), "200 ± 0"),
        ((0.2, 0.2004), "200.2 ± 0.2"),
        ((0.02, 0.02002), "20.01 ± 0.01"),
        ((0.2, 0.20001), "200.0 ± 0.0"),
    ],
)
def test_a_spread_is_not_rounded_to_zero_where_one_digit_more_shows_it(errors, text, result_maker):
    assert f"| {text} |" in markdown_table(summarize(results_of(result_maker, {"schnet": errors})))


def test_labels_are_not_read_as_markup(result_maker):
    rows = summarize([result_maker("schnet", 0, 0.2, label="[red]a[/]|<b>")])
    assert "[red]a[/]|<b>" in printed(rows, width=120)
    assert "[red]a[/]\\|&lt;b&gt;" in markdown_table(rows)


def test_columns_without_any_value_are_left_out(result_maker):
    rows = summarize(results_of(result_maker, {"schnet": (0.2,)}, with_forces=False))
    text = markdown_table(rows)
    assert "Force" not in text
    assert "change" not in text
    assert "±" not in text


def test_every_row_of_the_markdown_table_has_as_many_cells(result_maker):
    results = [result_maker("schnet", 0, 0.2), result_maker("schnet_mcgm", 0, 0.1, with_forces=False)]
    lines = [line for line in markdown_table(summarize(results)).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(236.4, "236"), (38.71, "38.7"), (4.926, "4.93"), (0.34, "0.340"), (0, "0.00")],
)
def test_numbers_have_three_significant_digits(value, text):
    assert number(value) == text
