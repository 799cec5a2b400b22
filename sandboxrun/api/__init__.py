"""The parts of the Python API behind `service` and `spawner`. Programs import from `sandboxrun`, not from here."""
