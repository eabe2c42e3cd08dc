"""Tasks as problems: where they are read from, how they are prompted, split and checked.

SeqIO and TensorFlow live in this room and in `restem.tasks`, and are imported only by the functions
that need them: `import restem.data.registry` costs milliseconds.
"""
