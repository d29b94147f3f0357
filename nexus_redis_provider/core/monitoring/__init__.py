"""What servers say of themselves, as typed values."""
