"""The pages of the jobs room: whole without script, and live with it."""
