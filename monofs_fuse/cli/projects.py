"""`monofs schema`: what a project's file may say."""

from __future__ import annotations

from monofs_fuse.cli import output
from monofs_fuse.cli.arguments import Args, Parser


def schema_options(parser: Parser) -> None:
    pass


def schema(args: Args) -> int:
    """Print the JSON schema of monofs.toml (draft 2020-12), with which editors complete and check it.

    The file itself is read with the same rules, and some more: between machines a schema can say nothing.

    Examples:
      monofs schema > monofs.schema.json
      sed -i '1i #:schema ./monofs.schema.json' monofs.toml  # for Taplo
    """
    from vmm.project.schema import document

    output.document(document())
    return 0
