"""Speed, memory and parity of the engine, measured beside the published loop."""
