"""tensorizer's encrypted load in a process of its own: a load for each line of input, and its seconds as output.

Run: python benchmarks/tensorizer_by_hand.py FILE KEY_IN_HEX READERS
"""

from __future__ import annotations

import sys
import time

from tensorizer import DecryptionParams, TensorDeserializer


def main() -> None:
    """Load whenever told to; the tensors are let go after each."""
    path, key, readers = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3])
    for _ in sys.stdin:
        started = time.perf_counter()
        encryption = DecryptionParams.from_key(key)
        with TensorDeserializer(path, device="cpu", encryption=encryption, num_readers=readers) as found:
            tensors = {name: found[name] for name in found}
        took = time.perf_counter() - started
        del tensors, found
        sys.stdout.write(f"{took}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
