"""What the rollouts of a prompt have in common, computed once by the actor."""
