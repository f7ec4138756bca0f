"""What validators earn and lose: rewards, payouts, evidence, slashing."""
