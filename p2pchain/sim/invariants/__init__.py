"""What must hold in every run, and the judge who watches."""
