"""Guards: measures of each step, and the monitor that warns, stops or rolls back."""
