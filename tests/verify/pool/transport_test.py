"""Frames arrive whole, in order, and bounded."""

import os
import random
import struct
import threading

from absl.testing import absltest

from restem.verify.pool import transport


class FrameBufferTest(absltest.TestCase):
    def test_frames_come_out_however_their_bytes_arrive(self):
        rng = random.Random(0)
        frames = [rng.randbytes(rng.choice((0, 1, 5, 70_000))) for _ in range(50)]
        stream = b"".join(map(transport.frame, frames))
        buffer = transport.FrameBuffer()
        found, at = [], 0
        while at < len(stream):
            size = rng.choice((1, 3, 4096, 100_000))
            buffer.feed(stream[at : at + size])
            at += size
            while (data := buffer.take()) is not None:
                found.append(data)
        self.assertEqual(found, frames)
        self.assertEmpty(buffer)

    def test_a_frame_over_the_limit_is_refused_by_its_head(self):
        buffer = transport.FrameBuffer(limit=10)
        buffer.feed(transport.frame(b"x" * 10))
        self.assertEqual(buffer.take(), b"x" * 10)
        with self.assertRaises(transport.FrameError):
            buffer.feed(struct.pack("<I", 11))
        with self.assertRaises(transport.FrameError):
            transport.frame(b"x" * 11, limit=10)


class ChannelTest(absltest.TestCase):
    def test_large_frames_limits_and_ends(self):
        to_there, to_here = os.pipe(), os.pipe()
        here = transport.Channel(to_here[0], to_there[1])
        there = transport.Channel(to_there[0], to_here[1])
        big = os.urandom(3_000_000)
        thread = threading.Thread(target=here.send, args=(big,))
        thread.start()
        self.assertEqual(there.receive(), big)
        thread.join()
        there.send_message({"text": "é\ud800\0"})
        self.assertEqual(here.receive_message(), {"text": "é\ud800\0"})
        there.send(b"xyz")
        with self.assertRaises(transport.FrameError):
            here.receive(limit=2)
        os.close(to_there[1])
        with self.assertRaises(EOFError):
            there.receive()
        for fd in (to_there[0], *to_here):
            os.close(fd)


if __name__ == "__main__":
    absltest.main()
