"""The systems that configs/studies/camvid.py compares: `base.py` is what they share, the others their differences."""
