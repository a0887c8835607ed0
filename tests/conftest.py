"""What all tests share: the fixtures of a mounted store; hypothesis must not judge the speed of a busy machine."""

from hypothesis import settings

from snapfs.testing.mounted import mounted, stores, volume

__all__ = ["mounted", "stores", "volume"]

settings.register_profile("snapfs", deadline=None, print_blob=True)
settings.load_profile("snapfs")
