"""A provider's side of a session: what it computes, signs for and is paid."""
