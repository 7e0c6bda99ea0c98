"""What runs look like to a person."""
