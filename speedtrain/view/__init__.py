"""What people look at: pages, pictures and tables, each in one style."""
