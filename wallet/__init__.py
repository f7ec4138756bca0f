"""Keys, keystores, transactions and paying by voucher."""
