"""`python tests/helpers/reliability`, see there."""

import sys
from pathlib import Path

# For this folder, in which files may have the names of other modules, that of the helpers and that of the package.
sys.path[:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]

from reliability import main  # noqa: E402

main()
