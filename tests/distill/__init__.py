"""Tests of the trainer, and the helpers that only they use."""
