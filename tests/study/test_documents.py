"""The finished records in docs/, and the pages that quote them: what is in both must agree, and nothing need be there.

Run with `python -m pytest -m records`. Pages are found by their tables, so that they may move.
"""

import math
from pathlib import Path

import pytest

from attnseg_jax.evaluation.counts import ImageCounts
from attnseg_jax.evaluation.tables import short
from attnseg_jax.study.records import Results
from attnseg_jax.study.summary import row_of

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "docs").rglob("results.json"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
pytestmark = pytest.mark.records


def score(key):
    return lambda row: {"-"} if row[key] is None else {f"{row[key]:.3f}", f"{row[key]:.4f}"}


def figure(key, factor=1.0):
    return lambda row: {short(None if row[key] is None else row[key] * factor)}


# Title of a column -> the texts that may stand there for a row. A table with any other column quotes something else.
COLUMNS = {
    "seeds": lambda row: {str(len(row["seeds"]))},
    "mIoU": score("miou"),
    "spread": score("spread"),
    "pixel accuracy": score("pixel_accuracy"),
    "boundary mIoU": score("boundary_miou"),
    "parameters": lambda row: {f"{row['parameters']:,}"},
    "M parameters": lambda row: {f"{row['parameters'] * 1e-6:.1f}"},
    "GFLOP": figure("flops", 1e-9),
    "MiB": figure("temp_bytes", 2**-20),
    "peak MiB": figure("peak_bytes", 2**-20),
    "s a step": figure("step_seconds"),
    "s an image": figure("image_seconds"),
    "seconds": lambda row: {f"{row['seconds']:,.0f}"},
}
# Title of the first column -> the study whose labels stand below it; "label": of a table that the study wrote itself.
STUDY = {"mechanism or decoder": "reach", "system": "comparison", "": "comparison"}


def quotes():
    """Page, study, label and {title: text} of every row that quotes a study, whatever its label."""
    for page in PAGES:
        titles = None
        for line in page.read_text().splitlines():
            if not line.startswith("|"):
                titles = None
                continue
            first, *cells = (cell.strip(" *`") for cell in line.strip().strip("|").split("|"))
            if titles is None:
                titles, study = cells, page.parent.name if first == "label" else STUDY.get(first)
            elif study and "mIoU" in titles and {*titles} <= {*COLUMNS, "note"} and set(first) != {"-"}:
                row = dict(zip(titles, cells, strict=True))
                row.pop("note", None)
                yield page, study, first, row


def finished(path):
    """Label -> records of its finished runs, in the order of their seeds."""
    groups = {}
    for record in sorted(Results(path).records.values(), key=lambda record: record["seed"]):
        if "result" in record:
            groups.setdefault(record["label"], []).append(record)
    return groups


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_tables_quote_the_records(path):
    rows = {label: row_of(label, records) for label, records in finished(path).items()}
    checked = set()
    for page, study, label, cells in quotes():
        if study == path.parent.name and label in rows:
            for title, text in cells.items():
                assert text in COLUMNS[title](rows[label]), f"{page.relative_to(ROOT)}: {title} of {label}"
            checked.add(label)
    assert checked or path.parent.name not in STUDY.values(), (
        "no page quotes these records: has a table got another title?"
    )


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_a_label_is_one_system(path):
    """Its records differ by the seed, and no seed is there twice."""
    for label, records in finished(path).items():
        assert len({record["seed"] for record in records}) == len(records), label
        assert all((r["config"], r["overrides"]) == (records[0]["config"], records[0]["overrides"]) for r in records)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_counts_give_the_scores_beside_them(path):
    for records in finished(path).values():
        for record in records:
            if "counts" in record:
                counts, result = ImageCounts.decode(record["counts"]), record["result"]
                for found, name in ((counts.iou, "iou"), (counts.boundary_iou, "boundary_iou")):
                    assert [None if math.isnan(iou) else iou for iou in found] == [*result[name].values()]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_kept_predictions_belong_to_a_record(path):
    """Their names hold the hash of the config (see `Results.predictions`)."""
    records = Results(path).records
    for prediction in Results(path).beside("_predictions").glob("*.png"):
        assert prediction.stem.split("-")[-2] in records, prediction.name
