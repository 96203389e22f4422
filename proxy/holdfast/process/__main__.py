"""Entry of a child process: reads what the supervisor gave it and becomes the keeper, a worker, or a compaction."""

from __future__ import annotations

import os
import sys

from holdfast.log import configure
from holdfast.process import inheritance
from holdfast.process.inheritance import COMPACTION, UNCHANGED, is_orphan
from holdfast.process.shutdown import end_with


def main() -> int:
    """Run the role this process was started for; the exit code."""
    gift = inheritance.inheritance()
    config = inheritance.read_configuration(gift.config)
    configure(config.log_level, gift.role, config.log_format)
    if gift.role == "keeper":
        from holdfast.process import keeper_process

        return keeper_process.run(config, gift)
    if gift.role == COMPACTION:
        from holdfast.process import index_compaction

        end_with(os.getppid())
        if is_orphan(gift):
            return UNCHANGED
        return index_compaction.run(config)
    from holdfast.process import worker

    return worker.run(config, gift)


sys.exit(main())
