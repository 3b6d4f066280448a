"""The commands and groups of `hdh`: plain help, nouns that are imported when typed, and commands
that are built then.

Typer 0.20 has two faults that are mended here, for all commands at once. It escapes `[required]`
for Rich even where the help is plain text (`\\[required]`), and under click 8.5 the help of an
argument is lost, because click's own constructor resets the attribute that Typer has just set.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, ClassVar

import click
import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.models import CommandInfo
from typer.utils import get_params_from_function

from federation.language import tr

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Translated(click.Command):
    """A command whose help and usage are in the reader's language."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _translate(self)
        super().format_help(ctx, formatter)

    def get_short_help_str(self, limit: int = 45) -> str:
        _translate(self)
        return super().get_short_help_str(limit)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_usage(self, ctx, formatter)


class Command(_Translated, TyperCommand):
    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        _restore_argument_help(self)

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes nothing: `format_options` writes the arguments too, as Typer does."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_parameters(self, ctx, formatter)


class _Commands(MutableMapping[str, click.Command]):
    """The commands of a group by name. Typer builds a command from the annotations of its function,
    which takes 1 ms; here that happens when somebody asks for the command."""

    def __init__(self, declared: Sequence[CommandInfo]) -> None:
        self._commands: dict[str, click.Command | CommandInfo] = {
            str(command.name): command for command in declared
        }

    def __getitem__(self, name: str) -> click.Command:
        command = self._commands[name]
        if isinstance(command, CommandInfo):
            command = typer.main.get_command_from_info(
                command, pretty_exceptions_short=True, rich_markup_mode=None
            )
            self._commands[name] = command
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)


class Group(_Translated, TyperGroup):
    declared: ClassVar[Sequence[CommandInfo]] = ()

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        groups = self.commands
        self.commands = _Commands(self.declared)
        self.commands.update(groups)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_parameters(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        limit = formatter.width - 6 - max((len(name) for name, _ in commands), default=0)
        rows = [(name, command.get_short_help_str(limit)) for name, command in commands if command]
        if rows:
            with formatter.section(tr("Commands")):
                formatter.write_dl(rows)


def _restore_argument_help(command: click.Command) -> None:
    """Sets the help of each argument again, from the annotation of the function it calls."""
    arguments = [given for given in command.params if isinstance(given, TyperArgument)]
    if not arguments or command.callback is None:
        return
    declared = get_params_from_function(command.callback)
    for argument in arguments:
        argument.help = argument.help or getattr(declared[argument.name].default, "help", None)


def _translate(command: click.Command) -> None:
    """Puts the help of a command into the reader's language, when somebody reads it."""
    command.help = tr(command.help) if command.help else command.help
    if command.epilog and "Examples:" in command.epilog:
        command.epilog = command.epilog.replace("Examples:", tr("Examples:"))


def _write_usage(
    command: click.Command, context: click.Context, formatter: click.HelpFormatter
) -> None:
    pieces = " ".join(command.collect_usage_pieces(context))
    formatter.write_usage(context.command_path, pieces, f"{tr('Usage:')} ")


def _record(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    help_text = getattr(parameter, "help", None)
    if help_text:
        parameter.help = tr(help_text)
    record = parameter.get_help_record(context)
    if record is None:
        return None
    text = record[1].replace("\\[", "[")
    for mark, translated in (("[required]", tr("[required]")), ("[default: ", tr("[default: "))):
        text = text.replace(mark, translated)
    return record[0], text


def _write_parameters(
    command: click.Command, context: click.Context, formatter: click.HelpFormatter
) -> None:
    for kind, title in (("argument", tr("Arguments")), ("option", tr("Options"))):
        records = [
            record
            for parameter in command.get_params(context)
            if parameter.param_type_name == kind
            and (record := _record(parameter, context)) is not None
        ]
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


class App(typer.Typer):
    """A group of commands. Only the root offers shell completion."""

    def __init__(self, **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "add_completion": False,
            "rich_markup_mode": None,
            "pretty_exceptions_enable": False,
            "suggest_commands": False,  # click suggests, too
        }
        self.declared: list[CommandInfo] = []
        cls = type("Group", (settings.pop("cls", Group),), {"declared": self.declared})
        super().__init__(cls=cls, **defaults | settings)

    def command(  # type: ignore[override]
        self, name: str, *, examples: Sequence[str] = ()
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Registers a function as command `name`, with command lines shown below its help."""
        epilog = "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples)])
        decorate = super().command(name, cls=Command, epilog=epilog if examples else None)

        def declare(function: Callable[..., None]) -> Callable[..., None]:
            decorate(function)
            self.declared.append(self.registered_commands.pop())
            return function

        return declare


class Noun(click.Group):
    """The group in the module federation.cli.NAME, which is imported when the noun is typed.

    Its one line of help is given here, so that `hdh --help` imports none of them."""

    def __init__(self, name: str, help_line: str) -> None:
        super().__init__(name, help=help_line)

    def get_short_help_str(self, limit: int = 45) -> str:
        return tr(self.help or "")

    @functools.cache  # noqa: B019 - the nouns are few, and live as long as the process
    def group(self) -> click.Group:
        module = importlib.import_module(f"federation.cli.{self.name}")
        group = typer.main.get_group(module.app)
        group.name, group.help = self.name, self.help
        return group

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        return self.group().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return self.group().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.group().get_command(ctx, cmd_name)
