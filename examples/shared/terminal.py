"""What the programs of the example say in the same way."""

from rich.console import Console


def print_error(console: Console, message: str) -> None:
    """Print an error as it is, in one line whatever the terminal's width."""
    console.print("error: ", style="bold red", end="")
    console.print(message, markup=False, highlight=False, soft_wrap=True)
