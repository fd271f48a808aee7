"""`python -m lorajob`: the `lorajob` command."""

import sys

from lorajob.cli.main import main

sys.exit(main())
