"""The gate in front of a pool's engines: the last word, on exact state, before the first token.

state.py    who waits and who is held, as plain synchronous code that returns messages
server.py   the process: WebSocket to gateways, engine counters, reports to the controller
client.py   a gateway's side
wire.py     the messages
"""
