"""One loaded model in one process: token ids and tiles in, token ids out. Nothing here knows of chats or HTTP."""
