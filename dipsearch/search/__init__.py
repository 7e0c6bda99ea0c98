"""The outer loop: propose genomes, spend fits on them, keep the evidence."""
