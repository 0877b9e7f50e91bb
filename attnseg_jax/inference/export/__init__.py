"""Models as files that others can run, each compared with what it was made from before it gets its name."""
