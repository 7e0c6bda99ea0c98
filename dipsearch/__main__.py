"""`python -m dipsearch`."""

import sys

from dipsearch.cli import main

sys.exit(main())
