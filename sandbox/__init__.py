"""Runnable stand-ins of the partners over their real protocols, importing nothing of the hub: a shared mistake cannot hide."""
