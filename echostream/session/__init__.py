"""One connection as the user sees it: the asyncio driver of the protocol machine, calls, events, streams, proxies."""
