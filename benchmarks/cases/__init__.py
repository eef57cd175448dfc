"""What is measured: commands, losses, shapes and networks."""
