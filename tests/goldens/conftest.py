"""The generators need packages of their own, see make/README.md."""

collect_ignore = ["make"]
