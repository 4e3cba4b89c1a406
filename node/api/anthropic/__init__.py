"""Anthropic's Messages API: a translation to chats and back."""
