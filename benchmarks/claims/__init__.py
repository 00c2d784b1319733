"""What a claim costs beside very many jobs, and what their removal costs those who submit."""
