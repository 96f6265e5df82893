"""What `doctor` looks at: engine, store, papers, log and workers; and what it mends."""

from agentq.doctor.examination import STUCK_SECONDS as STUCK_SECONDS
from agentq.doctor.examination import Examination as Examination
from agentq.doctor.findings import Ailment as Ailment
from agentq.doctor.findings import Findings as Findings
from agentq.doctor.papers import ailments as ailments
from agentq.doctor.papers import repair as repair
