"""Wires to the partners: protocols that know no partner, and declarations of partners."""
