"""Registration: pluggy discovers, validates and names; what would silently not run is refused here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from sparring.errors import PluginError
from sparring.hookspecs import PROJECT, DistributionHooks, RunHooks

if TYPE_CHECKING:
    from sparring.registry import Entry
    from sparring.specs import Spec

SINGLE = {"client_update": "trainer", "server_aggregate": "aggregator"}


class Manager(pluggy.PluginManager):
    """A plugin manager that refuses a hook without its marker, an unknown hook, and a second implementer of a single role."""

    def __init__(self, hooks: type) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(hooks)
        self.hooks = {name for name in vars(hooks) if not name.startswith("_")}
        self.owners: dict[str, str] = {}

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and name in self.hooks and inspect.isroutine(getattr(plugin, name, None)):
            raise PluginError(
                f"{_named(plugin)}.{name} is not marked @hookimpl, so it would never run; put @hookimpl before it"
            )
        return options

    def admit(self, plugin: object, name: str, owner: str) -> None:
        """Register ``plugin`` of the distribution ``owner`` under ``name``."""
        if name in self.owners:
            raise PluginError(f"'{name}' of {owner} is already registered by {self.owners[name]}")
        for hook, role in SINGLE.items():
            if hook in self.hooks and hasattr(type(plugin), hook):
                others = [i.plugin_name for i in getattr(self.hook, hook).get_hookimpls()]
                if others:
                    raise PluginError(
                        f"'{name}' of {owner} is a second {role}: "
                        f"'{others[0]}' of {self.owners[others[0]]} is already there; keep one"
                    )
        try:
            self.register(plugin, name)
            self.check_pending()
            self._check_arguments(plugin)
        except (PluginError, pluggy.PluginValidationError) as error:
            if self.is_registered(plugin):
                self.unregister(plugin)
            raise PluginError(f"'{name}' of {owner}: {error}") from error
        self.owners[name] = owner

    def _check_arguments(self, plugin: object) -> None:
        """Hooks are called with every argument in its place, so none may be left out, which pluggy would allow."""
        for caller in self.get_hookcallers(plugin) or ():
            wanted = caller.spec.argnames if caller.spec else ()
            for impl in caller.get_hookimpls():
                if impl.plugin is plugin and tuple(impl.argnames) != tuple(wanted):
                    raise PluginError(
                        f"{_named(plugin)}.{caller.name} takes ({', '.join(impl.argnames)}); it must take ({', '.join(wanted)})"
                    )

    def implementation(self, hook: str, name: str) -> Callable[..., Any]:
        """The plain callable behind ``hook`` of the plugin ``name``: resolved once, called every round."""
        for impl in getattr(self.hook, hook).get_hookimpls():
            if impl.plugin_name == name:
                function: Callable[..., Any] = impl.function
                return function
        raise PluginError(f"'{name}' of {self.owners.get(name, 'nobody')} implements no {hook}")


def _named(plugin: object) -> str:
    return plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__name__


def run_manager() -> Manager:
    """The manager of one run: it holds configured instances."""
    return Manager(RunHooks)


def distribution_specs(module: ModuleType, entry: Entry) -> list[Spec[Any]]:
    """The specs that a light module offers."""
    manager = Manager(DistributionHooks)
    manager.admit(module, module.__name__, str(entry))
    offered: list[Iterable[Spec[Any]]] = manager.hook.sparring_plugins()
    specs = [spec for specs in offered for spec in specs]
    names = [(spec.kind, spec.name) for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PluginError(f"{entry} offers {twice[0][1]} twice among its {twice[0][0]}")
    return specs
