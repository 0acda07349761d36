"""`python -m lattice_ml` is `lattice-ml`."""

import sys

from lattice_ml.cli import main

sys.exit(main())
