"""Small flows that show how to use the engine. Each module says what it shows and how to run it."""
