"""What is needed to install a federation: the offline bundle, its bill of materials, containers.
It is not part of the wheel."""
