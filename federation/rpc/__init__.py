"""What hub, nodes and coordinators say to each other beside the rounds of a study: hub.proto, and the code made from it."""
