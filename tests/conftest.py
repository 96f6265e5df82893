"""What all tests share: the brokers they start, and promises that are checked against docs/guarantees.md."""

import os

pytest_plugins = [
    "tests.brokers.fixtures",
    "tests.brokers.secured",
    "tests.collector",
    "tests.desk",
    "tests.object_servers",
    "tests.object_faults",
]

for name in [name for name in os.environ if name.startswith("AGENTQ_") and name != "AGENTQ_TEST_CACHE"]:
    del os.environ[name]
