"""What a training step takes on a machine that is not here: memory, time and communication, before it is rented."""
