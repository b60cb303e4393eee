"""A process that writes to a store without end, to be killed. Prints what it knows to be safe."""

import itertools
import sys

from tests.cache.disks import MIB, chain, open_store, put_all


def main() -> None:
    directory, first = sys.argv[1], int(sys.argv[2])
    store = open_store(directory, 2 * MIB, queue_bytes=MIB // 2)
    print("open", flush=True)
    for number in itertools.count(first):
        put_all(store, chain(number, 6), 5000 if number % 3 else 9000)
        if number % 4 == 0 and store.flush(10):
            print(number, flush=True)


if __name__ == "__main__":
    main()
