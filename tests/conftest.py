"""What all tests share: hypothesis must not judge the speed of a busy machine."""

from hypothesis import settings

settings.register_profile("snapfs", deadline=None, print_blob=True)
settings.load_profile("snapfs")
