"""`ray start`, with the one option that Ray loses on its way to a node's raylet.

Of the four ports of a node's agents Ray 2.60 tells the raylet three. For the file in which the agent writes the fourth
the raylet waits 15 seconds, whatever was asked for, and then ends: too little beside others that start on two cores.
"""

from __future__ import annotations

import sys
from typing import Any

from ray._private import services
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.scripts.scripts import main

OPTION = "--dashboard-agent-listen-port"

if __name__ == "__main__":
    port = sys.argv[sys.argv.index(OPTION) + 1]
    start = services.start_ray_process

    def start_ray_process(command: list[str], process_type: str, *rest: Any, **named: Any) -> Any:
        if process_type == PROCESS_TYPE_RAYLET:
            command = [*command, f"--dashboard_agent_listen_port={port}"]
        return start(command, process_type, *rest, **named)

    services.start_ray_process = start_ray_process
    sys.exit(main())
