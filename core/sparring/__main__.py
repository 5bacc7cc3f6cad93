"""The command line: every error that a user can mend is printed as a sentence and ends with status 2."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    from sparring.errors import SparringError

    try:
        if sys.argv[1:2] == ["list"]:
            from sparring.listing import main as list_installed

            list_installed(sys.argv[2:])
        else:
            from sparring.cli import app

            app()
    except SparringError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: run again with --resume to go on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
