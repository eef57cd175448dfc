"""Other people's trainers, one module each; importing one needs its package, nothing else does."""
