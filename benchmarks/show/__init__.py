"""Reads result files: tables, report, pictures, comparison."""
