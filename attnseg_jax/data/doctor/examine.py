"""From a folder to a diagnosis: layout, facts of every pair, findings, decisions."""

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from attnseg_jax.data import annotations
from attnseg_jax.data.doctor import class_files
from attnseg_jax.data.doctor import findings as said
from attnseg_jax.data.doctor.facts import PairFacts, read_image, read_pair, too_large
from attnseg_jax.data.doctor.findings import Finding
from attnseg_jax.data.doctor.folder import inner, layout_of, pictures
from attnseg_jax.data.doctor.labels import Labels, propose_labels
from attnseg_jax.data.doctor.names import Named, NameTable, find_names
from attnseg_jax.data.doctor.proposal import Decision, propose
from attnseg_jax.data.doctor.splits import Splits, propose_splits
from attnseg_jax.data.doctor.summary import Summary
from attnseg_jax.data.layouts import Layout, Pair, Pairing, Tree, held_out, parquet, stacks, stacks_as_files
from attnseg_jax.data.reading import in_threads
from attnseg_jax.errors import UserError

# Images that tell of what kind most are.
_SAMPLED = 9
# Pairs up to which images that look alike are searched for unasked: a minute, or less.
_FEW = 2000


@dataclass(frozen=True)
class Plan:
    """What there is to read: pairs of every split, and what their names alone tell.

    Attributes:
      root: the folder, or the only one in it that holds the others.
      tree: the files, in it or unpacked from its parquet files or stacks.
      layout: how they are named.
      others: further layouts that fit, in words.
      splits: those to train and evaluate on.
      pairings: the files by the splits that are stored; "" for a set without.
      pairs: by the splits of the run.
      labels: of annotation files, in the order of the raw ids; () where masks are pictures.
      classes: those that may overlap, with a mask file or a band for each; () where a pixel has one class.
    """

    root: Path
    tree: Tree
    layout: Layout
    others: tuple[str, ...]
    splits: Splits
    pairings: dict[str, Pairing]
    pairs: dict[str, list[Pair]]
    labels: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """All that the doctor has to say; `decisions` are empty where nothing can be trained."""

    plan: Plan
    summary: Summary
    labels: Labels
    findings: tuple[Finding, ...]
    decisions: tuple[Decision, ...]


def check_root(root: Path) -> None:
    """Raises UserError for what is no folder, or none that can be read."""
    if not root.exists():
        raise UserError(f"--data={root}: there is no such folder")
    if not root.is_dir():
        raise UserError(f"--data={root} is a file: give the folder that holds the images and masks")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError(f"--data={root}: the folder cannot be read: ask for the permission, or copy the files")


def make_plan(root: Path) -> Plan:
    """Finds the layout and the splits of a folder, from names alone.

    Raises:
      UserError: there is no such folder, or there are no images with masks in it.
    """
    check_root(root)
    tree = inner(Tree(root))
    root = tree.root
    if not pictures(tree) and parquet.shards(root):
        tree, layout, others = Tree(parquet.unpacked(root)), Layout("parquet", parquet.FORM), ()
    else:
        layout, others = layout_of(tree)
    pairings = layout.pairings(tree)
    stored = [split for split in pairings if split]
    found_pairs = {split: pairing.pairs for split, pairing in pairings.items()}
    if stacked := any(of and stacks.is_stack(tree.root, of[0]) for of in found_pairs.values()):
        layout = replace(layout, name="stacks")
        of_pages, tree = stacks_as_files(layout, tree, pairings)
        found_pairs = {split: of_pages.pairing(tree, split).pairs for split in pairings}
    train = propose_splits(stored, []).train
    of_train = [pair.name for pair in found_pairs[train if stored else ""]]
    splits = propose_splits(stored, of_train, stacked=stacked)
    pairs = {split or splits.train: list(of) for split, of in found_pairs.items()}
    first = [split for split in (splits.train, splits.validation) if split in pairs]
    pairs = _each_once({split: pairs[split] for split in [*first, *(pairs.keys() - {*first})]}, first)
    if splits.split:
        held = held_out(of_train, splits.split)
        every = pairs[splits.train]
        others_ = {split: of for split, of in pairs.items() if split != splits.train}
        pairs = {
            splits.train: [pair for pair in every if pair.name not in held],
            splits.validation: [pair for pair in every if pair.name in held],
            **others_,
        }
    labels = _labels(tree, pairs)
    classes = () if labels else layout.form.classes or class_files.classes_in_bands(tree, [*_all(pairs)])
    return Plan(root, tree, layout, others, splits, pairings, pairs, labels, classes)


def _all(pairs: dict[str, list[Pair]]) -> Iterator[Pair]:
    return itertools.chain.from_iterable(pairs.values())


def _labels(tree: Tree, pairs: dict[str, list[Pair]]) -> tuple[str, ...]:
    """All labels of annotation files, behind what no shape covers."""
    files = dict.fromkeys(pair.mask for of_split in pairs.values() for pair in of_split)
    found: dict[str, None] = {}
    for file in files:
        if not file.lower().endswith(annotations.SUFFIX):
            return ()
        with contextlib.suppress(UserError):
            found |= dict.fromkeys(annotations.labels_of(tree.root / file))
    ground = next((name for name in annotations.GROUND if name in found), annotations.GROUND[0])
    return (ground, *(name for name in found if name != ground))


def _each_once(pairs: dict[str, list[Pair]], first: list[str]) -> dict[str, list[Pair]]:
    """Without what further splits, such as `trainval`, only list again."""
    seen = {pair.image for split in first for pair in pairs[split]}
    rest = {split: [p for p in of if p.image not in seen] for split, of in pairs.items() if split not in first}
    return {split: pairs[split] for split in first} | {split: of for split, of in sorted(rest.items()) if of}


def examine(
    plan: Plan,
    *,
    threads: int | None = None,
    duplicates: bool = True,
    near_duplicates: bool | None = None,
    on_pair: Callable[[PairFacts], None] = lambda facts: None,
) -> Diagnosis:
    """Reads every pair of a plan, in threads, and draws the conclusions.

    Args:
      plan: what to read.
      threads: one for each core by default.
      duplicates: whether images of the same bytes are looked for.
      near_duplicates: whether images that look alike are, for which all are decoded; None where there are few.
      on_pair: is told of every pair as it comes.
    """
    summary = Summary(channels=usual_channels(plan))
    jobs = [(split, pair) for split, pairs in plan.pairs.items() for pair in pairs]
    looks = len(jobs) <= _FEW if near_duplicates is None else near_duplicates
    for facts in in_threads(partial(_read, plan, looks=looks), jobs, "reading images and masks", threads):
        summary.add(facts, duplicates=duplicates)
        on_pair(facts)
    return conclude(plan, summary)


def _read(plan: Plan, job: tuple[str, Pair], *, looks: bool = False) -> PairFacts:
    split, pair = job
    root = plan.tree.root
    read = None
    if plan.classes:
        files = [path and root / path for path in pair.masks]
        read = partial(class_files.read_classes, files, len(plan.classes))
    found = read_pair(root, split, pair, plan.labels, looks=looks, read=read)
    # Training reads some of these by windows, evaluation none.
    beyond = too_large([root / file for file in pair.images]) if split == plan.splits.validation else None
    return replace(found, image=beyond) if beyond else found


def usual_channels(plan: Plan) -> int:
    """What most of some images have, see `ImageFacts.channels`; 8-bit RGB where that is not clear."""
    paths = [pair.image for pairs in plan.pairs.values() for pair in pairs]
    found: Counter[int] = Counter({0: 0})
    for path in paths[:: max(1, len(paths) // _SAMPLED)][:_SAMPLED]:
        with contextlib.suppress(UserError):
            found[read_image(plan.tree.root / path).channels] += 1
    return found.most_common(1)[0][0]


def first_pair(plan: Plan) -> PairFacts:
    """The facts of one pair."""
    return _read(plan, next((split, pairs[0]) for split, pairs in plan.pairs.items() if pairs))


def _names(plan: Plan) -> NameTable | None:
    """What names the values of the masks."""
    if plan.labels:
        return NameTable("the annotations", tuple(Named(name, i) for i, name in enumerate(plan.labels)))
    # Not in a folder that files are unpacked to.
    return find_names(Tree(plan.root))


def conclude(plan: Plan, summary: Summary) -> Diagnosis:
    """The findings and decisions that follow from what was read."""
    splits = plan.splits
    of_classes: list[Decision] = []
    if plan.classes:
        labels = propose_labels(summary, None, "", splits.train)
        labels = class_files.of_one_class(plan.classes, labels, summary, splits.train, plan.layout.form.classes != ())
        of_classes = class_files.decisions(plan.classes, labels, summary, splits.train, [*_all(plan.pairs)])
    else:
        labels = propose_labels(summary, _names(plan), plan.layout.name, splits.train)
    used = {split: plan.pairings[split] for split in plan.pairings if split in ("", splits.train, splits.validation)}
    lacking = itertools.chain.from_iterable(
        [*(image for image, _ in p.without_mask), *(path for path, _ in p.doubles), *p.missing] for p in used.values()
    )
    left_out = sorted({*lacking, *summary.unusable})
    found_ = [*said.of_pairings(plan.pairings), *said.of_files(summary)]
    found_ += said.of_labels(summary, labels, splits.validation)
    if plan.classes and not labels.refusal:
        found_ += class_files.findings(plan.classes, summary, splits.validation)
    if splits.doubt:
        found_.append(Finding("warning", splits.doubt))
    if plan.others:
        words = "other files could be meant as masks too; if each is of a class of its own, see data.mode='multilabel'"
        found_.append(Finding("warning", words, plan.others))
    for split, role in ((splits.train, "to train on"), (splits.validation, "to validate on")):
        if not summary.pairs[split] and not labels.refusal:
            found_.append(Finding("error", f"no pair of {split!r} is left {role}"))
    order = ("error", "warning", "note")
    found_.sort(key=lambda finding: order.index(finding.level))
    trainable = not labels.refusal and summary.pairs[splits.train] and summary.pairs[splits.validation]
    decisions = (
        propose(plan.root, plan.layout, splits, labels, summary, left_out, plan.labels, of_classes) if trainable else []
    )
    return Diagnosis(plan, summary, labels, tuple(found_), tuple(decisions))
