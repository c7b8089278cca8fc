"""The routes of the API by subject. Each handler turns its parameters into a question for the service."""
