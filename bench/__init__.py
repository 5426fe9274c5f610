"""Measurements of the hub, as ratios within one run; the published figures come from here."""
