"""How calls are carried out: watch the servers, lease connections, end calls and retry them."""
