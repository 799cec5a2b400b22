"""An agent that works for an hour."""

import time

for step in range(1, 3601):
    print(f"Step {step} of 3600", flush=True)
    time.sleep(1)
