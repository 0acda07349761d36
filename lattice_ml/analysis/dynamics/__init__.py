"""What dynamics do in closed form: finite steps, relaxation, learning."""
