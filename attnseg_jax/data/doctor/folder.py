"""How the files of a folder lie, from their names."""

from attnseg_jax.data.layouts import SUFFIXES, Layout, Tree, fixed_folder, found
from attnseg_jax.data.layouts.class_files import with_class_files
from attnseg_jax.data.layouts.guess import Guess, guesses, is_split_word
from attnseg_jax.errors import UserError

# A layout of the table that explains fewer of the pictures than this may not be what is meant.
_EXPLAINED = 0.6
# Endings of files that tell of a data set beside its pictures.
_SAYING = (".txt", ".csv", ".json", ".parquet")


def inner(tree: Tree) -> Tree:
    """The folder that holds all the others, where archives have put their own around it, such as VOCdevkit/VOC2012."""
    folders, files = tree.entries()
    folders = [name for name in folders if name != "__MACOSX"]
    says = any(name.lower().endswith((*SUFFIXES, *_SAYING)) for name in files)
    if len(folders) != 1 or says or is_split_word(folders[0]):
        return tree
    return inner(Tree(tree.root / folders[0]))


def layout_of(tree: Tree) -> tuple[Layout, tuple[str, ...]]:
    """The layout that fits a folder best, and others that fit, in words.

    Raises:
      UserError: there are no pictures, or no masks are found for them.
    """
    best, pairs = found(tree)
    count = pictures(tree)
    if not count:
        raise UserError(f"--data={tree.root}: there are no pictures in this folder ({_kinds()} are read)")
    others: tuple[str, ...] = ()
    named = best is None or not best.has_splits or any(is_split_word(split) for split in best.splits(tree))
    if not named or 2 * pairs < _EXPLAINED * count:
        guessed = [guess for guess in guesses(tree) if guess.looks[0] >= 0]
        # Folders that are no splits hold one data set together.
        if guessed and guessed[0].pairs >= pairs + named:
            best = guessed[0].layout
            pairs, others = guessed[0].pairs, _others(guessed)
    # Pictures that are left over may be masks of further classes.
    if best is None or (best.name not in ("objects", "lists") and 2 * pairs < count):
        of_classes = with_class_files(tree)
        if of_classes and (best is None or of_classes[1] > 2 * pairs):
            best, others = Layout("templates", of_classes[0]), ()
    if best is None:
        raise UserError(
            f"--data={tree.root}: no masks are found for its {count} pictures: a mask has the name of its image, in "
            "another folder or with another ending (see the page on data), or list the pairs in pairs.csv"
        )
    return best, others


def _others(guessed: list[Guess]) -> tuple[str, ...]:
    """Other masks for the images of the first guess, in words."""
    first, found_ = guessed[0], {}
    for guess in guessed[1:]:
        same_images = fixed_folder(guess.layout.form.images) == fixed_folder(first.layout.form.images)
        if same_images and guess.first_mask != first.first_mask and 2 * guess.pairs >= first.pairs:
            found_.setdefault(guess.first_mask, f"{guess.layout.form.masks} ({guess.pairs} pairs)")
    return tuple(found_.values())


def _kinds() -> str:
    return ", ".join(suffix[1:] for suffix in SUFFIXES)


def pictures(tree: Tree) -> int:
    """How many files are named like pictures."""
    return sum(name.lower().endswith(SUFFIXES) for folder in tree.below() for name in tree.entries(folder)[1])
