"""The command ``curate``: finds the verb, and turns every error into a message and an exit code."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from curation import __version__
from curation.cli.session import Session
from curation.cli.verb import Exampled
from curation.errors import CurationError

VERBS = (
    *("build", "validate", "plan", "inspect", "preview", "explain", "report", "diff", "rollback", "export", "clean"),
    *("methods", "schema"),
)

INTERRUPTED = 130
OUR_FAULT = "this is a fault of curation, not of your recipe or data; please report it with the lines above"
THEIR_FAULT = "the plug-in {} has failed, see the lines above; mend it, or tell its author"


class Cli(Exampled, click.Group):
    """Loads a verb's module only when it is asked for, and is the one place that catches errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order in which one needs them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Command of a verb, by the convention ``curation.cli.VERB:command``."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"curation.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or name the nearest one."""
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(VERBS)}"
            ctx.fail(f"no command '{args[0]}'; {hint}")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run, and end the process with the exit code."""
        session = Session()
        sys.exit(self._run(sys.argv[1:] if args is None else list(args), session))

    def _run(self, args: list[str], session: Session) -> int:
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            code = super().main(args, prog_name="curate", standalone_mode=False, obj=session)
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except CurationError as error:
            session.fail(error, error.exit_code)
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            return session.interrupted(INTERRUPTED)
        except SystemExit as error:  # how Click ends when nobody reads what is printed
            return error.code if isinstance(error.code, int) else 1
        except Exception as error:
            traceback.print_exception(error)
            session.fail(error, 1, _whose_fault(error))
            return 1
        finally:
            signal.signal(signal.SIGTERM, before)
        return code if isinstance(code, int) else 0


def _whose_fault(error: Exception) -> str:
    plugins = sys.modules.get("curation.plugins")
    target = plugins.culprit(error) if plugins else ""
    return THEIR_FAULT.format(target) if target else OUR_FAULT


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


@click.group(
    cls=Cli,
    examples=(
        "curate validate recipe.yaml",
        "curate build recipe.yaml",
        "curate report build/digits",
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done · 1 failed · 2 bad recipe or usage · 3 refused (memory, disk) · "
    "4 output held by another build · 130 interrupted.",
)
@click.version_option(__version__, prog_name="curate")
def cli() -> None:
    """Build training sets from a recipe: the same bytes every time, and a reason for every row left out."""


def main() -> None:
    """Entry point."""
    cli()
