"""Reads tasks and turns them into problems: registry, files, prompts, splits, and SeqIO.

Only this room and `restem.tasks` use SeqIO and TensorFlow, and only inside the functions that need
them, so `import restem.data.registry` takes milliseconds.
"""
