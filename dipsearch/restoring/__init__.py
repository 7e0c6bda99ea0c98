"""A person's own pictures: from a damaged file to a restored one."""
