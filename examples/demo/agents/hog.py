"""An agent that takes memory without end."""

import time

STEP = 16 << 20

held = []
while True:
    held.append(bytearray(STEP))  # zeroed, and so really taken
    print(f"I hold {len(held) * STEP >> 20} MB", flush=True)
    time.sleep(0.4)  # slow enough to be watched
