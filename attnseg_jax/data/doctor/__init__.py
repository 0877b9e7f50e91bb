"""Looks at a folder of images and masks and proposes a config: facts from files, then findings, then decisions."""
