"""Writes into core's wheel what lies beside it in a checkout: the catalogue of all techniques, and the template of plugins."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CatalogueHook(BuildHookInterface):  # type: ignore[type-arg]
    """Scans the plugins' ``pyproject.toml`` files; an editable install reads them where they are and needs no catalogue."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add ``sparring/catalogue.json``, by which an unknown name is answered, and ``sparring/template``."""
        if version == "editable":
            return
        root = Path(self.root)
        sys.path.insert(0, str(root / "core"))
        try:
            from sparring.registry import scan

            found = scan(root / "plugins")
        finally:
            sys.path.remove(str(root / "core"))
        if not found:
            raise RuntimeError(f"no technique is declared under {root / 'plugins'}; build from a checkout or an sdist")
        self.folder = tempfile.TemporaryDirectory()
        catalogue = Path(self.folder.name) / "catalogue.json"
        catalogue.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
        build_data["force_include"][str(catalogue)] = "sparring/catalogue.json"
        build_data["force_include"][str(root / "templates" / "plugin")] = "sparring/template"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file."""
        del build_data, artifact_path
        if version != "editable":
            self.folder.cleanup()
