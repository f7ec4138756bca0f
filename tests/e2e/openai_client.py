"""The real OpenAI client, pointed at a gateway of ours."""

import openai
from devnet_process import ANSWER_S, RunningDevnet


def build_client(devnet: RunningDevnet) -> openai.OpenAI:
    """Return a client that asks once, and is patient with a busy machine."""
    return build_client_of(devnet.api, devnet.api_key)


def build_client_of(api: str, token: str) -> openai.OpenAI:
    """Return the same for a gateway by its address."""
    return openai.OpenAI(
        base_url=f"{api}/v1", api_key=token, max_retries=0, timeout=ANSWER_S
    )
