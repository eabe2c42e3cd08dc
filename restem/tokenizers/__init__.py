"""Text to token ids and back: `tokenizer.json`, SentencePiece, and what GGUF files carry."""
