"""OpenAI's Responses API, without stored state: a translation to chats and back."""
