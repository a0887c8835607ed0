"""The file system as such: volumes, files, directories, snapshots; knows neither FUSE nor sockets."""
