"""The process that trains: plan, train and save, under the clock."""
