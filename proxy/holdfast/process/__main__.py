"""Entry of a child process: reads what the supervisor gave it and becomes the keeper or a worker."""

from __future__ import annotations

import sys

from holdfast.process import child, log


def main() -> int:
    """Run the role this process was started for; the exit code."""
    gift = child.inheritance()
    config = child.read_configuration(gift.config)
    log.configure(config.log_level, gift.role, changeable=bool(config.gateway.connection_string))
    if gift.role == "keeper":
        from holdfast.process import keeper

        return keeper.run(config, gift)
    from holdfast.process import worker

    return worker.run(config, gift)


sys.exit(main())
