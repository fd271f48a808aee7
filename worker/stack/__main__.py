"""`python -m lorajob.worker.stack`: the detached process of `lorajob up`."""

import sys

from lorajob.worker.stack.stack import main

sys.exit(main())
