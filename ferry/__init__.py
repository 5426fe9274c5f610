"""The ferry (摆渡) across the one-way gap: not built yet. Its place in the layers is reserved here, and it does nothing."""
