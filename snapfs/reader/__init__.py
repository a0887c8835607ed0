"""Snapshots read by any process: without the mount and without a daemon, or beside one that serves the store.

    from snapfs import reader

    with reader.open_snapshot("/data/store", "digits@v1") as snapshot:
        names = snapshot.glob("train/**/*.png")
        images = snapshot.read_many(names[:64])            # bytes of each, read together
        with snapshot.open("labels.csv", "rt") as file:    # as builtin open, for reading
            rows = file.readlines()
        part = snapshot.read_range("tokens.bin", 1 << 20, 4096)

A snapshot may be handed to other processes (it is pickled as where it is, and opened anew there) and used by several
threads and across a fork, as PyTorch's ``DataLoader`` does with its data sets:

    class Images(torch.utils.data.Dataset):
        def __init__(self, store, address):
            self.snapshot = reader.open_snapshot(store, address)
            self.names = self.snapshot.glob("train/**/*.png")

        def __getitems__(self, indices):
            return [decode(data) for data in self.snapshot.read_many([self.names[i] for i in indices])]

With fsspec installed (``pip install snapfs[fsspec]``) pandas, pyarrow, datasets and others read snapshots by address:

    pandas.read_csv("snapfs:///data/store/digits@v1/labels.csv")

Invariants:
  * Nothing is ever written, but a place in LMDB's table of readers.
  * Every byte that is returned belongs to a block whose hash was checked, as the daemon does; damage is
    ``OSError(EIO)``, which names the file.
  * A snapshot that is deleted meanwhile (also into the trash) answers ``OSError(ESTALE)`` from then on.
  * Space is kept from reuse only for the moment of a look at the index: a reader that runs for days keeps nothing but
    the space of up to 64 segment files that were dropped since its last read.
  * Modes and owners in a snapshot are told, not asked: who may read the store's files reads all that they hold.
"""

from snapfs.reader.files import SnapshotFile as SnapshotFile
from snapfs.reader.snapshot import Entry as Entry
from snapfs.reader.snapshot import Snapshot as Snapshot
from snapfs.reader.snapshot import open_snapshot as open_snapshot
