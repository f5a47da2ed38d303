"""What a traced function does with its parameters, and with the signal in them."""
