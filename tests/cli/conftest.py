"""The api's test server and the chain's test world serve the commands' tests too."""

import sys
from pathlib import Path

for folder in ("chain", "api"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
