"""Genome -> torch.nn.Module: blocks, resampling, one file per family, and `build`."""
