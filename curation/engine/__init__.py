"""The engine: jobs, done-marks, executors, locks. Knows neither columns nor methods."""
