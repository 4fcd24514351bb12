"""`jaxvae` without the page at the end of a run, which takes longer than all else here.

`DIES_AT=STEP` in the environment: it is killed at the first dispatch that ends at this step or later.
"""

import os
import signal
import sys

from jaxvae.cli import main
from jaxvae.cli.progress import Terminal


class Dying(Terminal):
    """Kills its own process, as a machine's failure would."""

    def progress(self, step, steps_per_s):
        """Die, once it is time."""
        super().progress(step, steps_per_s)
        if step >= int(os.environ.get("DIES_AT", "1000000")):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    module = sys.modules["jaxvae.cli.main"]
    module._write_report = lambda *_: None
    module.Terminal = Dying
    main()
