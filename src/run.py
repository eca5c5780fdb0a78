"""python -m src.run <group>=<choice> <option>=<value> ...: composes the configuration, calls the task that it names."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, to be told in one sentence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import get_method
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from src.config import CONF, explain
from src.errors import Problem


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose_and_call(config: DictConfig) -> None:
    """Hydra's entry: the composed configuration to the task."""
    get_method(config.task._target_)(config, Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    """The command line; what a person can mend is told in one sentence, with exit code 2."""
    try:
        compose_and_call()
    except Problem as problem:
        sys.exit(_say(str(problem)))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(_say(explain(error, [a for a in sys.argv[1:] if "=" in a and not a.startswith("-")])))
    except KeyboardInterrupt:
        print("Interrupted; add resume=true to the same command to go on.", file=sys.stderr)
        sys.exit(130)


def _say(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
