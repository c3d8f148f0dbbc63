"""How commands are carried out: driver, planner, scheduler, executors."""
