"""The LLM judge: a language model behind a server with OpenAI's chat interface scores completions."""
