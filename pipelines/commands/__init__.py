"""What each `raymill` command does; pipelines/cli.py holds their table."""
