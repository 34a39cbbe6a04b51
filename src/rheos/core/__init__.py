"""What everything stands on: dynamics and the loop that runs them, states, checkpoints, watchers, random draws, argument checks."""
from rheos.core import checks
from rheos.core.checkpoints import Checkpoint, latest_checkpoint, load_state, save_state
from rheos.core.draws import Draws
from rheos.core.dynamics import Dynamics, Example, NonFinite, Watcher, evolve, raising_interrupts
from rheos.core.states import copy_state, shared
from rheos.core.watchers import Progress, StopWhen, TensorBoard, Trace

__all__ = [
    "Checkpoint", "Draws", "Dynamics", "Example", "NonFinite", "Progress", "StopWhen", "TensorBoard", "Trace", "Watcher",
    "checks", "copy_state", "evolve", "latest_checkpoint", "load_state", "raising_interrupts", "save_state", "shared",
]
