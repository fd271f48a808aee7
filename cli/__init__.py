"""The `lorajob` command."""
