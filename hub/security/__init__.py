"""Who may call, what a body is sealed with, how a name is searched and how it is masked."""
