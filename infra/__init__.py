"""What runs the pipeline on more than this machine, and what tries that here."""
