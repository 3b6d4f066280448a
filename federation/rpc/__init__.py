"""The gRPC service between hub, nodes and coordinators, outside the rounds of a study: hub.proto,
and the code generated from it."""
