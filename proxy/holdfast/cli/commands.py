"""The `holdfast` command and its verbs. Each verb imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from holdfast.cli.lazy_group import LazyGroup

FILE = click.Path(dir_okay=False, path_type=Path)
DIRECTORY = click.Path(file_okay=False, path_type=Path)
PLACE = click.Path(path_type=Path)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    lazy={
        "connected-registry": "holdfast.cli.verbs.connected_registry:connected_registry",
        "deleted": "holdfast.cli.verbs.disk.deleted:deleted",
        "events": "holdfast.cli.verbs.events:events",
        "gc": "holdfast.cli.verbs.disk.gc:gc",
        "outbox": "holdfast.cli.verbs.outbox:outbox",
        "parent": "holdfast.cli.verbs.parent:parent",
        "pin": "holdfast.cli.verbs.disk.pinning:pin",
        "pins": "holdfast.cli.verbs.disk.pinning:pins",
        "prefetch": "holdfast.cli.verbs.disk.prefetching:prefetch",
        "repository": "holdfast.cli.verbs.disk.repository:repository",
        "scope-map": "holdfast.cli.verbs.scope_map:scope_map",
        "scrub": "holdfast.cli.verbs.disk.scrub:scrub",
        "status": "holdfast.cli.verbs.status:status",
        "sync": "holdfast.cli.verbs.sync:sync",
        "token": "holdfast.cli.verbs.token:token",
        "undelete": "holdfast.cli.verbs.disk.deleted:undelete",
        "unpin": "holdfast.cli.verbs.disk.pinning:unpin",
        "usage": "holdfast.cli.verbs.disk.usage:usage",
        "webhook": "holdfast.cli.verbs.webhook:webhook",
    },
    sections={
        "A node": (
            "serve",
            "demo",
            "config",
            "fsck",
            "rebuild",
            "compact",
            "backup",
            "restore",
            "export",
            "import",
        ),
        "What a serving node manages": (
            "status",
            "login",
            "logout",
            "connected-registry",
            "token",
            "scope-map",
            "sync",
            "outbox",
            "parent",
            "events",
            "webhook",
        ),
        "The disk of a serving node": (
            "usage",
            "gc",
            "scrub",
            "pin",
            "unpin",
            "pins",
            "deleted",
            "undelete",
            "prefetch",
            "repository",
        ),
    },
)
@click.version_option(package_name="holdfast", message="%(prog)s %(version)s")
def holdfast() -> None:
    """A connected registry: a local replica that keeps serving when the link is down."""


@holdfast.command()
@click.option("--config", "file", type=FILE, help="Configuration file; flags override it.")
@click.option(
    "--listen", metavar="HOST:PORT", help="Address to serve on; port 0 picks one. Default: 127.0.0.1:5000."
)
@click.option(
    "--admin-listen",
    metavar="HOST:PORT",
    help="Address of the admin API. Default: 127.0.0.1 and a free port.",
)
@click.option("--data", metavar="DIR", help="Directory of the store. Default: holdfast-data.")
@click.option("--parent", "parents", multiple=True, metavar="[NAME=]URL", help="Parent registry; may repeat.")
@click.option("--parent-insecure", is_flag=True, help="Allow http and invalid certificates at the parents.")
@click.option(
    "--parent-ca",
    metavar="FILE",
    help="Certificate authorities of the parents, PEM, instead of the system's. This, --parent-insecure and"
    " --parent-proxy are of the parents of --parent, and of the one in a connection string.",
)
@click.option(
    "--parent-proxy",
    metavar="URL",
    help="Egress proxy to them; none: none, also where HTTPS_PROXY or HTTP_PROXY name one.",
)
@click.option("--workers", type=int, help="Worker processes; 0: everything in one process; -1: one per core.")
@click.option("--on-miss", type=click.Choice(["parent", "strict"]), help="Ask the parent, or answer 404.")
@click.option(
    "--mode",
    type=click.Choice(["ReadWrite", "ReadOnly", "Registry", "Mirror"]),
    metavar="ReadWrite|ReadOnly",
    help="Take pushes and deletes, or not. Without it ReadOnly with a parent, ReadWrite without.",
)
@click.option(
    "--anonymous",
    type=click.Choice(["none", "pull", "push"]),
    help="What a caller without login may do; push includes deleting. Default: none on a node that manages connected"
    " registries or is one, pull on every other.",
)
@click.option("--tls-cert", metavar="FILE", help="Certificate chain, PEM.")
@click.option("--tls-key", metavar="FILE", help="Private key, PEM.")
def serve(file: Path | None, **flags: Any) -> None:
    """Serve a node. Without a parent it is a root."""
    import holdfast_core as core
    from holdfast_core.native_build import why_stale

    import holdfast as proxy
    from holdfast.cli.exit_codes import FAILED, refuse

    if reason := why_stale(Path(str(package.__file__)).parent for package in (core, proxy)):
        refuse(reason, FAILED)
    from holdfast.cli.verbs import serve as verb

    verb.run(file, flags)


@holdfast.group(cls=LazyGroup)
def config() -> None:
    """The configuration."""


@config.command("check")
@click.argument("file", type=FILE)
def config_check(file: Path) -> None:
    """Check a configuration file as serve does, with this environment; print what is wrong and exit 2, or print that it
    is right."""
    from holdfast.cli.verbs import configuration as verb

    verb.check(file)


@config.command("keys")
def config_keys() -> None:
    """Print every key with type, default, unit and meaning, as a Markdown table."""
    from holdfast.cli.verbs import configuration as verb

    click.echo(verb.key_table_as_markdown())


@holdfast.command()
@click.option("--data", type=DIRECTORY, default=Path("holdfast-data"), show_default=True, help="The store.")
@click.option(
    "--read-data",
    is_flag=False,
    flag_value="1/1",
    metavar="[n/m]",
    help="Hash the blobs too, or share n of m.",
)
@click.option("--repair", is_flag=True, help="Mend what can be mended first. The node must be stopped.")
def fsck(data: Path, read_data: str | None, repair: bool) -> None:
    """Check a store. Exit 1 when anything is damaged. Without --repair it reads only, safe beside a serving node."""
    from holdfast.cli.verbs import maintenance

    maintenance.fsck(data, read_data, repair=repair)


@holdfast.command()
@click.option("--data", type=DIRECTORY, default=Path("holdfast-data"), show_default=True, help="The store.")
def rebuild(data: Path) -> None:
    """Make the index anew from the journal and the blob files. The node must be stopped."""
    from holdfast.cli.verbs import maintenance

    maintenance.rebuild(data)


@holdfast.command()
@click.option("--data", type=DIRECTORY, default=Path("holdfast-data"), show_default=True, help="The store.")
def compact(data: Path) -> None:
    """Make the index as short as what it holds. The node must be stopped; a start does it by itself when the index
    is four times as long as it need be."""
    from holdfast.cli.verbs import maintenance

    maintenance.compact(data)


@holdfast.command()
@click.argument("to", type=DIRECTORY, metavar="DIR")
@click.option("--data", type=DIRECTORY, default=Path("holdfast-data"), show_default=True, help="The store.")
@click.option("--rate", type=click.FloatRange(min=1), metavar="MB", help="Read at most so many MB a second.")
def backup(to: Path, data: Path, rate: float | None) -> None:
    """Copy a store into DIR, or bring an earlier backup there up to date; the node may serve. Exit 1 when anything is
    damaged."""
    from holdfast.cli.verbs import maintenance

    maintenance.backup(data, to, rate)


@holdfast.command()
@click.argument("source", type=DIRECTORY, metavar="BACKUP")
@click.option("--data", type=DIRECTORY, required=True, help="The store to make: an empty directory, or none.")
def restore(source: Path, data: Path) -> None:
    """Make a store of a backup. Exit 1 when anything is damaged."""
    from holdfast.cli.verbs import maintenance

    maintenance.restore(source, data)


@holdfast.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE…")
@click.option(
    "--to",
    type=PLACE,
    required=True,
    metavar="DIR|FILE.tar",
    help="The layout to write. A directory may have one: it is added to, and an entry of the same image is"
    " replaced. A tar is written anew.",
)
@click.option(
    "--with-referrers", is_flag=True, help="Signatures, SBOMs and what else refers to the images, too."
)
@click.option(
    "--hard-links",
    is_flag=True,
    help="Layers in a directory are the store's own files where blocks cannot be shared. Never write to them.",
)
@click.option("--data", type=DIRECTORY, default=Path("holdfast-data"), show_default=True, help="The store.")
def export(images: tuple[str, ...], to: Path, with_referrers: bool, hard_links: bool, data: Path) -> None:
    """Write images of a store into an OCI image layout. Reads only; safe beside a serving node.

    IMAGE is REPOSITORY[:TAG|@DIGEST] as clients of the node write it."""
    from holdfast.cli.verbs import maintenance

    maintenance.export(data, images, to, with_referrers=with_referrers, hard_links=hard_links)


@holdfast.command("import")
@click.argument("source", type=PLACE, metavar="DIR|FILE.tar")
@click.argument("name", metavar="REPOSITORY[:TAG]")
@click.option(
    "--ref", "reference", metavar="NAME", default="", help="Which image, where the layout has several."
)
@click.option(
    "--node", metavar="URL", default="http://127.0.0.1:5000", show_default=True, help="Where the node serves."
)
@click.option("-u", "--username", metavar="NAME", help="A client token that may push there.")
@click.option("--password-stdin", is_flag=True, help="Read its password from stdin.")
def import_layout(
    source: Path, name: str, reference: str, node: str, username: str | None, password_stdin: bool
) -> None:
    """Push images of an OCI image layout to a node. All of it is verified before anything is sent.

    Without TAG every image of the layout gets the tag that it has there."""
    from holdfast.cli.verbs import maintenance

    maintenance.import_layout(source, name, reference, node, maintenance.login_of(username, password_stdin))


@holdfast.command()
@click.option("--parent", metavar="URL", help="A real parent instead of the embedded root.")
@click.option("--parent-insecure", is_flag=True, help="Allow http and invalid certificates at the parent.")
@click.option("--image", metavar="NAME:TAG", help="What to pull.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="localhost:5000",
    show_default=True,
    help="Where the node serves.",
)
def demo(**options: Any) -> None:
    """Show a node at work: pull through it, stop the parent, pull again; then keep serving."""
    from holdfast.cli.verbs import demo as verb

    verb.run(**options)


@holdfast.command()
@click.argument("url", required=False)
@click.option("-u", "--username", help="Default: operator.")
@click.option(
    "-p", "--password", help="The password. Others on this machine can see it: rather --password-stdin."
)
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin.")
def login(url: str | None, username: str | None, password: str | None, password_stdin: bool) -> None:
    """Log in to a node's admin API; the verbs below ask it from then on.

    URL is the admin address that the node prints.

    \b
    A verb asks the first of these that is there:
      --registry URL (password from --data, the environment, or a login)
      --data DIR, the data directory of a node on this machine
      HOLDFAST_REGISTRY, with HOLDFAST_USERNAME and HOLDFAST_PASSWORD
      HOLDFAST_DATA, a data directory
      the last login
      ./holdfast-data
    """
    from holdfast.cli.login import log_in

    log_in(url, username, password, password_stdin)


@holdfast.command()
@click.argument("url", required=False)
def logout(url: str | None) -> None:
    """Forget a login."""
    from holdfast.cli.login import log_out

    log_out(url)


@holdfast.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes verbs and flags.

    \b
    bash: eval "$(holdfast completion bash)"                 in ~/.bashrc
    zsh:  eval "$(holdfast completion zsh)"                  in ~/.zshrc
    fish: holdfast completion fish > ~/.config/fish/completions/holdfast.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, shell
    # the class of bash asks the bash that is here for its version; the one that reads the script may be another
    click.echo(kind.source_template % kind(holdfast, {}, "holdfast", "_HOLDFAST_COMPLETE").source_vars())
