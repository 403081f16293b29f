"""What answers the policy between its turns. START HERE: environment.py."""

from groupwise.environments.environment import Environment as Environment
from groupwise.environments.environment import Observation as Observation
from groupwise.environments.environment import Reply as Reply
from groupwise.environments.tools import Tool as Tool
from groupwise.environments.tools import Toolbox as Toolbox
from groupwise.environments.tools import ToolEnvironment as ToolEnvironment
from groupwise.types import Call as Call

__all__ = ["Call", "Environment", "Observation", "Reply", "Tool", "ToolEnvironment", "Toolbox"]
