"""One module per wire; none of them knows a partner."""
