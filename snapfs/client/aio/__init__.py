"""The client for asyncio; the source from which the blocking one is generated."""
