"""What a computation is: definition, values, identity, tables. Pure."""
