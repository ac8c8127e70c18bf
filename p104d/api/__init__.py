"""The wire: messages, the server on the Unix socket, the client."""
