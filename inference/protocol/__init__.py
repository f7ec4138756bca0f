"""What goes between requesters and hops: messages, terms, steps, receipts."""
