"""Run from a checkout: python cli.py … (installed: dipsearch …)."""

from dipsearch.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
