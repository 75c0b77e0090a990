"""What takes errors of rounding back."""
