"""What docker-compose.yml starts that is no program of the services themselves."""
