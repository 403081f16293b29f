"""Rewards that a language model gives, behind a server with the chat interface of OpenAI."""
