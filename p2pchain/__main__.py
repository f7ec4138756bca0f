"""`python -m p2pchain` is the `p2pchain` command."""

import sys

from p2pchain.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
