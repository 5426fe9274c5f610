"""The door of the hub: parses, authenticates, hands to the desk and renders its answers; it knows no database."""
