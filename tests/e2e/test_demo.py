"""The demo, over the ends of epochs."""

import json

from devnet_process import SHORT_EPOCHS, START_S, WAIT_S, run_cli


def test_the_books_balance_over_ends_of_epochs() -> None:
    args = ("--validators", "2", *SHORT_EPOCHS)
    done = run_cli("--json", "demo", "--once", *args, timeout=START_S + WAIT_S)
    assert done.returncode == 0, done.stderr[-2000:]
    balances = json.loads(done.stdout)["balances"]
    assert balances["gateway"]["rewards"] == "0"
    assert sum(int(each["rewards"]) for each in balances.values()) > 0
