"""DIPBench: learning curves of many genomes as one table for each task, and searches replayed on it."""
