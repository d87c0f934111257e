"""`python -m autoscale` is the command `autoscale`."""
from autoscale.cli import main

main()
